"""The chain of digests that an audit log's lines form, and its check."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from guardrail_plugin.core.errors import ConfigError

GENESIS = "0" * 64
"""What the first line has in place of the digest before it."""

_NO_LINE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
"""What reading something else than a line of a log raises."""

_TAIL_BYTES = 1_048_576


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What a check of an audit log found.

    Attributes:
        files, lines: how much was read.
        first, last: sequence numbers; 0 where there is no line.
        broken: the first thing that is wrong, with file and line; ``None``: nothing.
    """

    files: int
    lines: int
    first: int
    last: int
    broken: str | None = None


def digest(line: Mapping[str, object], *, key: bytes | None) -> str:
    """Return the digest of a line without its own: HMAC-SHA256 with a key, else SHA-256."""
    content = json.dumps(dict(line), sort_keys=True, separators=(",", ":")).encode("ascii")
    return (hmac.new(key, content, sha256) if key else sha256(content)).hexdigest()


def row(line: Mapping[str, object], told: str) -> bytes:
    """Return a line as it stands in the log, with its digest, without the line break."""
    return json.dumps({**line, "digest": told}, separators=(",", ":")).encode("ascii")


def rotated(path: Path) -> list[Path]:
    """Return a log's full files, oldest first.

    Raises:
        OSError: the directory cannot be read: a glob would have told of no files, and the next would replace the first.
    """
    prefix = f"{path.name}."
    try:
        names = [file.name for file in path.parent.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = (name for name in names if name.startswith(prefix) and name.removeprefix(prefix).isdecimal())
    return [path.with_name(name) for name in sorted(found, key=lambda name: int(name.removeprefix(prefix)))]


def last_link(path: Path) -> tuple[int, str] | None:
    """Return the sequence number and digest of a log's last line; ``None``: there is none.

    Raises:
        ConfigError: the last line is broken: what wrote it was interrupted, or somebody else did. Or it cannot be read.
    """
    try:
        return _last_link(path)
    except OSError as error:
        raise ConfigError(f"cannot read the audit log {path}: {error.strerror}") from None


def _last_link(path: Path) -> tuple[int, str] | None:
    for file in [path, *reversed(rotated(path))]:
        if not file.is_file() or not file.stat().st_size:
            continue
        raw = _tail(file)
        try:
            line = json.loads(raw.removesuffix(b"\n").rpartition(b"\n")[2])
            if raw.endswith(b"\n"):
                return int(line["sequence"]), str(line["digest"])
        except _NO_LINE:
            pass
        raise ConfigError(f"the last line of {file} is broken; check it with: guardrail audit {file}")
    return None


def _tail(file: Path) -> bytes:
    """Return so much of a file's end that its last line is complete."""
    size, reach = file.stat().st_size, _TAIL_BYTES
    with file.open("rb") as content:
        while True:
            content.seek(-min(reach, size), 2)
            raw = content.read()
            if reach >= size or b"\n" in raw[:-1]:
                return raw
            reach *= 8


def verify(path: str | Path, *, key: bytes | None = None) -> ChainReport:
    """Check a log from its oldest file to its last line.

    A log whose oldest files were dropped (``keep``) is checked from where it begins. Lines cut off at the end cannot
    be seen in the log itself: compare ``last`` with a number that is kept elsewhere.

    Raises:
        ConfigError: there is no such log, or it cannot be read.
    """
    path = Path(path)
    try:
        return _verified(path, key)
    except OSError as error:
        raise ConfigError(f"cannot read the audit log {path}: {error.strerror}") from None


def _verified(path: Path, key: bytes | None) -> ChainReport:
    files = [file for file in [*rotated(path), path] if file.is_file()]
    if not files:
        raise ConfigError(f"there is no audit log at {path}")
    lines, first, last, previous = 0, 0, 0, ""
    for file, number, raw in _lines(files):
        where = f"{file.name}, line {number}"
        try:
            line = json.loads(raw)
            told = str(line.pop("digest"))
            sequence = int(line["sequence"])
            before = str(line["previous"])
            genuine = _is_written(raw, row(line, told)) and hmac.compare_digest(digest(line, key=key), told)
        except _NO_LINE:
            return ChainReport(len(files), lines, first, last, f"{where}: not a line of an audit log")
        if not genuine:
            return ChainReport(len(files), lines, first, last, f"{where}: changed, or written with another key")
        if lines and (before != previous or sequence != last + 1):
            return ChainReport(len(files), lines, first, last, f"{where}: a line before it is missing or was moved")
        if sequence == 1 and before != GENESIS:
            return ChainReport(len(files), lines, first, last, f"{where}: not the beginning that it claims to be")
        first, last, previous, lines = first or sequence, sequence, told, lines + 1
    return ChainReport(len(files), lines, first, last)


def _is_written(raw: bytes, written: bytes) -> bool:
    """Tell whether a line's bytes are the log's own: other JSON, with a key twice, can parse to the same object."""
    return raw.removesuffix(b"\n").removesuffix(b"\r") == written  # \r: what was written on Windows once


def _lines(files: list[Path]) -> Iterator[tuple[Path, int, bytes]]:
    for file in files:
        with file.open("rb") as content:
            for number, raw in enumerate(content, 1):
                yield file, number, raw
