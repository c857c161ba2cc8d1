"""Scores on disk: ``NAME.jsonl`` with one line per row, and ``NAME.meta.json`` that says whose scores they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from guardrail_plugin._version import __version__
from guardrail_plugin.core.errors import ConfigError

_FORMAT = 2


class ScoreStore:
    """The scores of one file by one guardian. Without a folder it keeps nothing.

    A line is appended as a whole and flushed; one that a killed run left half written is not JSON and is dropped.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        name: str,
        guardian: str,
        fingerprint: str,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        """Name a store.

        Args:
            folder: ``None`` keeps nothing.
            name: of the file that is scored.
            guardian: its id.
            fingerprint: of the file that is scored, alone: two guardians' scores are compared where it is the same.
            settings: what the guardian's answers depend on beside its id, as JSON values.
        """
        self._folder = folder
        self._name = name
        # Views, checks and written texts are the library's: another version may answer otherwise.
        self._meta = {
            "format": _FORMAT,
            "guardian": guardian,
            "settings": dict(settings or {}),
            "library": __version__,
            "fingerprint": fingerprint,
        }

    def read(self) -> list[dict[str, object]]:
        """Return the lines that an earlier run wrote with the same guardian, its settings too, over the same file."""
        if self._folder is None:
            return []
        try:
            meta = json.loads(_meta_file(self._folder, self._name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        return self.lines(self._folder, self._name) if meta == self._meta else []

    def rewrite(self, kept: Sequence[Mapping[str, object]]) -> None:
        """Write the file anew, with these lines.

        Raises:
            ConfigError: the folder cannot be written.
        """
        if self._folder is None:
            return
        target = _scores_file(self._folder, self._name)
        part = target.with_suffix(".part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            part.write_text(_text(kept), encoding="utf-8")
            # Meta goes first and comes back last: a run killed in between leaves scores that are nobody's.
            _meta_file(self._folder, self._name).unlink(missing_ok=True)
            part.replace(target)
            _meta_file(self._folder, self._name).write_text(json.dumps(self._meta) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write to {self._folder}: {error.strerror}") from None

    def append(self, lines: Sequence[Mapping[str, object]]) -> None:
        """Add lines to the file.

        Raises:
            ConfigError: it cannot be written (a full disk, for example).
        """
        if self._folder is None:
            return
        path = _scores_file(self._folder, self._name)
        try:
            with path.open("a", encoding="utf-8") as stream:
                stream.write(_text(lines))
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from None

    @staticmethod
    def lines(folder: Path, name: str) -> list[dict[str, object]]:
        """Return every whole line of a scores file.

        Raises:
            ConfigError: there is no such file.
        """
        path = _scores_file(folder, name)
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None
        return [line for line in map(_parsed, text.split("\n")) if line is not None]

    @staticmethod
    def made_of(folder: Path, name: str) -> tuple[str, str]:
        """Return the id of the guardian whose scores they are, and the fingerprint of the file that they are of.

        Raises:
            ConfigError: the meta file is missing or not ours.
        """
        path = _meta_file(folder, name)
        try:
            meta = json.loads(path.read_text(encoding="utf-8"))
            return str(meta["guardian"]), str(meta["fingerprint"])
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError(f"{path} is missing or not written by this library") from None


def _scores_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.jsonl"


def _meta_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.meta.json"


def _text(lines: Sequence[Mapping[str, object]]) -> str:
    return "".join(json.dumps(line, ensure_ascii=True) + "\n" for line in lines)


def _parsed(line: str) -> dict[str, object] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
