"""JSONL files → labelled checks. Every fault of a file is a ``ConfigError`` that names the file and the line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from guardrail_plugin.core.categories import hazard_of
from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import ConfigError, did_you_mean
from guardrail_plugin.core.hazards import PROMPT_INJECTION
from guardrail_plugin.core.jsonl import read_objects
from guardrail_plugin.core.verdict import RAILS, Rail

_KNOWN_KEYS = ("id", "text", "harmful", "category", "response", "response_harmful", "source", "attack", "lang")
_INJECTION_RAILS = frozenset({"tool_output", "document"})


@dataclass(frozen=True, slots=True)
class EvalFile:
    """One JSONL file, or a part of one, and how its rows are judged.

    Attributes:
        path: the file.
        rail: the task. ``None``: ``output`` where rows carry ``response_harmful``, else ``input``.
        name: what reports call it; the file's stem by default.
        categories: only rows whose category starts with one of these; empty: all rows.
        held_out: only the share of rows whose hash falls below it, that of the text that is judged: the recipe's
            validation split of a TRAIN file (the same rule as ``guardrail_plugin.training.rows.held_out``).
    """

    path: Path
    rail: Rail | None = None
    name: str = ""
    categories: tuple[str, ...] = ()
    held_out: float = 1.0

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.path.stem)
        if not 0.0 < self.held_out <= 1.0:
            raise ConfigError(f"held_out is a share of the rows, above 0 and at most 1, got {self.held_out:g}")

    @classmethod
    def parse(cls, argument: str, *, rail: Rail | None = None) -> EvalFile:
        """Read ``FILE`` or ``FILE:rail`` from a command line; ``rail`` is for files that name none.

        Raises:
            ConfigError: the word after the colon is no rail.
        """
        head, colon, tail = argument.rpartition(":")
        if not colon or Path(argument).exists() or "/" in tail or "\\" in tail or "." in tail:
            return cls(Path(argument), rail=rail)
        for known in RAILS:
            if tail == known:
                return cls(Path(head), rail=known)
        raise ConfigError(f"{argument}: {tail!r} is no rail{did_you_mean(tail, RAILS)}; rails: {', '.join(RAILS)}")

    def selects(self, *, text: str, category: str | None) -> bool:
        """Whether a row belongs to the selection, by the text that is judged (the response on the output rail)."""
        if self.categories and not (category or "").startswith(self.categories):
            return False
        if self.held_out >= 1.0:
            return True
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:4], "big") < self.held_out * 2**32


@dataclass(frozen=True, slots=True)
class EvalRow:
    """One labelled check.

    Attributes:
        id: unique in its file.
        harmful: the label of what is judged: of the response on the output rail, of the text elsewhere.
        expected: the hazard code that source and category settle, or ``None``.
        line: where it stands in its file.
    """

    id: str
    check: Check
    harmful: bool
    expected: str | None = None
    category: str | None = None
    source: str = ""
    lang: str | None = None
    line: int = 0

    @property
    def key(self) -> bytes:
        """Digest of rail, query and text: equal for the same check in two files."""
        check = self.check
        parts = (check.rail, check.query or "", check.text)
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True, slots=True)
class Dataset:
    """The labelled rows of one file.

    Attributes:
        skipped: rows of the selection whose label is null.
        fingerprint: hash of the file's bytes, the rail and the selection.
    """

    name: str
    path: Path
    rail: Rail
    rows: tuple[EvalRow, ...] = field(repr=False)
    skipped: int
    fingerprint: str


def load(file: EvalFile) -> Dataset:
    """Read a file and keep its labelled rows.

    Raises:
        ConfigError: the file cannot be read, a line breaks the schema, an id is used twice, or no row has a label.
    """
    numbered = list(read_objects(file.path))
    rail = file.rail or ("output" if any("response_harmful" in row for _, row in numbered) else "input")
    rows: list[EvalRow] = []
    skipped = 0
    seen: set[str] = set()
    for number, raw in numbered:
        fields = _Fields(file.path, number, raw)
        query = fields.required_text("text")
        judged = (fields.text("response") if rail == "output" else None) or query
        if not file.selects(text=judged, category=fields.text("category")):
            continue
        row = _row(fields, rail, stem=file.path.stem)
        if row is None:
            skipped += 1
            continue
        if row.id in seen:
            raise fields.error(f"id {row.id!r} is used twice")
        seen.add(row.id)
        rows.append(row)
    if not rows:
        raise ConfigError(_why_empty(file, rail, [raw for _, raw in numbered]))
    return Dataset(file.name, file.path, rail, tuple(rows), skipped, _fingerprint(file, rail))


def distinct(datasets: Sequence[Dataset]) -> list[tuple[int, int]]:
    """Return where each check first occurs, in order: the number of its data set, and of its row there."""
    first: dict[bytes, tuple[int, int]] = {}
    for number, data in enumerate(datasets):
        for place, row in enumerate(data.rows):
            first.setdefault(row.key, (number, place))
    return list(first.values())


def contradictions(datasets: Sequence[Dataset]) -> list[list[tuple[Path, int]]]:
    """Return the checks that carry both labels: for each the file and line of its first row, and of the first with the
    other label.
    """
    seen: dict[bytes, dict[bool, tuple[Path, int]]] = {}
    for data in datasets:
        for row in data.rows:
            seen.setdefault(row.key, {}).setdefault(row.harmful, (data.path, row.line))
    return [list(places.values()) for places in seen.values() if len(places) > 1]


class _Fields:
    """Typed access to one line; errors name the file, the line and the key, never the value."""

    def __init__(self, path: Path, number: int, raw: Mapping[str, object]) -> None:
        self.path, self.number, self._raw = path, number, raw

    def error(self, problem: str) -> ConfigError:
        return ConfigError(f"{self.path}, line {self.number}: {problem}")

    def text(self, key: str) -> str | None:
        value = self._raw.get(key)
        if value is None or isinstance(value, str):
            return value
        raise self.error(f"{key!r} must be text or null, got {type(value).__name__}")

    def required_text(self, key: str) -> str:
        value = self.text(key)
        if value is None:
            near = "" if key in self._raw else did_you_mean(key, self._raw)
            raise self.error(f"{key!r} is missing{near}")
        return value

    def label(self, key: str) -> bool | None:
        value = self._raw.get(key)
        if value is None or isinstance(value, bool):
            return value
        raise self.error(f"{key!r} must be true, false or null, got {type(value).__name__}")

    def identifier(self, fallback: str) -> str:
        value = self._raw.get("id")
        if value is None:
            return fallback
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            return str(value)
        raise self.error(f"'id' must be text or a whole number, got {type(value).__name__}")


def _row(fields: _Fields, rail: Rail, *, stem: str) -> EvalRow | None:
    text, category = fields.required_text("text"), fields.text("category")
    harmful = fields.label("response_harmful" if rail == "output" else "harmful")
    if harmful is None:
        return None
    source = fields.text("source") or stem
    if rail == "output":
        # The category describes the query, so it says nothing about the hazard of the response.
        check, expected = Check(fields.required_text("response"), rail="output", query=text), None
    else:
        injection = rail in _INJECTION_RAILS or fields.text("attack") == "prompt_injection"
        expected = PROMPT_INJECTION if injection else hazard_of(source, category)
        check = Check(text, rail=rail)
    return EvalRow(
        id=fields.identifier(f"{stem}-line-{fields.number}"),
        check=check,
        harmful=harmful,
        expected=expected if harmful else None,
        category=category,
        source=source,
        lang=fields.text("lang"),
        line=fields.number,
    )


def _why_empty(file: EvalFile, rail: Rail, rows: list[Mapping[str, object]]) -> str:
    if not rows:
        return f"{file.path}: the file is empty"
    label = "response_harmful" if rail == "output" else "harmful"
    hint = did_you_mean(label, [key for key in rows[0] if key not in _KNOWN_KEYS])
    return f"{file.path}: no row of the selection has a label in {label!r}{hint}; nothing to measure on the {rail} rail"


def _fingerprint(file: EvalFile, rail: Rail) -> str:
    digest = hashlib.sha256(file.path.read_bytes())
    digest.update(json.dumps([rail, file.categories, file.held_out]).encode())
    return digest.hexdigest()
