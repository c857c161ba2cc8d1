"""An append-only record of every decision, one JSON object a line. Hashes and verdicts; text only where switched on.

Each line holds a sequence number and the digest of the line before it. With a key the digests are HMACs: whoever lacks
the key cannot change, drop or reorder lines unnoticed. Without one the chain still shows accidents.
"""

from __future__ import annotations

import hmac
import os
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from io import FileIO
from pathlib import Path

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.observe.chain import GENESIS, digest, last_link, rotated, row
from guardrail_plugin.observe.event import RailEvent, RequestEvent

_MIN_KEY_BYTES = 16


class AuditLog:
    """An observer that writes every rail's decision to a file. Safe to share between threads.

    A full file is renamed to ``<name>.000001`` and so on, and the chain goes on in the next. A file that is there
    already is continued. Each line is flushed as it is written; lines are some 600 bytes. Where a line cannot be
    written, because the disk is full, that is raised and nothing of it is kept; the chain goes on with the next line.

    Args:
        path: the file that is written to.
        key: for HMACs, of the chain and of the texts' hashes: without a key, a short text's hash can be guessed.
        max_bytes: when a file is full.
        keep: most full files that are kept, the oldest go first; ``None``: all.
        with_text: also write what was judged. **Off by default; with it the log holds what users wrote.**
        fsync: have every line on disk before the call goes on: slow, and the event loop waits.

    Raises:
        ConfigError: the file cannot be written, ends in a broken line, or a setting is out of range.

    Does not: share one file between processes; give each its own.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        key: bytes | None = None,
        max_bytes: int = 64 * 1024 * 1024,
        keep: int | None = None,
        with_text: bool = False,
        fsync: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if max_bytes < 1024:
            raise ConfigError(f"max_bytes must be 1024 or more, got {max_bytes}")
        if keep is not None and keep < 1:
            raise ConfigError(f"keep must be 1 or more, or None, got {keep}")
        if key is not None and len(key) < _MIN_KEY_BYTES:
            raise ConfigError(f"an audit key has at least {_MIN_KEY_BYTES} bytes")
        self.path = Path(path)
        self._key = key
        self._max_bytes = max_bytes
        self._keep = keep
        self._with_text = with_text
        self._fsync = fsync
        self._clock = clock
        self._lock = threading.Lock()
        self._sequence, self._previous = last_link(self.path) or (0, GENESIS)
        self._torn: int | None = None  # where the line begins that was not written to its end
        self._closed = False
        try:
            self._file = self._open()
        except OSError as error:
            raise ConfigError(f"cannot write the audit log {self.path}: {error.strerror}") from None

    def rail(self, event: RailEvent) -> None:
        """Write a decision.

        Raises:
            OSError: the disk is full or gone, or a full file cannot be put aside. The next call tries again.
            ValueError: the log is closed.
        """
        fields = {"kind": "rail", **event.as_dict(), "texts": [self._told(check) for check in event.checks]}
        self._write(fields)

    def request(self, event: RequestEvent) -> None:
        """Do nothing: the record is of decisions."""

    def close(self) -> None:
        """Close the file. Idempotent."""
        with self._lock:
            self._closed = True
            self._file.close()

    def _told(self, check: Check) -> dict[str, object]:
        told: dict[str, object] = {"rail": check.rail, "characters": len(check.text), "hash": self._hash(check.text)}
        return {**told, "text": check.text} if self._with_text else told

    def _hash(self, text: str) -> str:
        content = text.encode("utf-8", "surrogatepass")
        return (hmac.new(self._key, content, sha256) if self._key else sha256(content)).hexdigest()

    def _write(self, fields: dict[str, object]) -> None:
        with self._lock:
            if self._file.closed and not self._closed:
                self._file = self._open()
            sequence = self._sequence + 1
            line = {"sequence": sequence, "at_s": round(self._clock(), 6), **fields, "previous": self._previous}
            told = digest(line, key=self._key)
            self._append(row(line, told) + b"\n")
            self._sequence, self._previous = sequence, told
            if self._file.tell() >= self._max_bytes:
                self._rotate()

    def _append(self, content: bytes) -> None:
        """Write all of a line, or nothing of it."""
        self._cut()
        self._torn = os.fstat(self._file.fileno()).st_size
        try:
            while content:
                content = content[self._file.write(content) :]
            if self._fsync:
                os.fsync(self._file.fileno())
        except BaseException:
            self._cut()
            raise
        self._torn = None

    def _cut(self) -> None:
        """Remove what a line that was not written to its end has left. Where that fails, the next call does it."""
        if self._torn is not None:
            self._file.truncate(self._torn)
            self._torn = None

    def _rotate(self) -> None:
        full = rotated(self.path)
        number = int(full[-1].suffix[1:]) + 1 if full else 1
        self._file.close()
        try:
            self.path.rename(self.path.with_name(f"{self.path.name}.{number:06d}"))
        finally:
            # Where it cannot be renamed now, it goes on growing: decisions must not go unrecorded.
            self._file = self._open()
        if self._keep is not None:
            for old in rotated(self.path)[: -self._keep]:
                old.unlink()

    def _open(self) -> FileIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Readable by its owner only: it tells who asked when, if not what. Unbuffered: a buffer keeps, or drops, lines
        # that were told to have failed.
        return open(os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab", buffering=0)
