"""Rows of JSONL files → training examples."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guardrail_plugin.core.categories import hazard_of
from guardrail_plugin.core.conversation import Message
from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.hazards import MLCOMMONS, PROMPT_INJECTION
from guardrail_plugin.core.jsonl import read_objects
from guardrail_plugin.core.verdict import Rail
from guardrail_plugin.training.config import Source
from guardrail_plugin.training.hub import PREFIX, hub_name, hub_rows

SAFE = "safe"
CORPUS = Path(__file__).parent / "corpus"
_OWN = "corpus:"  # sources of the shipped corpus


@dataclass(frozen=True, slots=True)
class Example:
    """One thing to learn.

    Attributes:
        text: what is judged.
        rail: which task.
        harmful: the label.
        hazard: its code; ``None`` on a harmful row means that the source does not say which.
        query: what a response answers (output rail).
        context: earlier turns.
        response: a safeguard response to learn to write, or ``None``; each epoch draws them anew from the written ones.
        theme: sub-theme that ties topics to fitting responses.
        source: file it came from.
    """

    text: str = field(repr=False)
    harmful: bool
    rail: Rail = "input"
    hazard: str | None = None
    query: str | None = field(default=None, repr=False)
    context: tuple[Message, ...] = field(default=(), repr=False)
    response: str | None = field(default=None, repr=False)
    theme: str | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class SourceRows:
    """What a source holds.

    Attributes:
        rows: rows read, less those of categories that the source leaves out.
        unusable: of those, rows that nothing is learnt from.
        first: place of the first unusable one and what is wrong with it: "line 3: ...".
    """

    examples: tuple[Example, ...] = field(repr=False)
    rows: int
    unusable: int
    first: str | None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a JSONL file.

    Raises:
        ConfigError: it is missing or a line is not a JSON object; the message names the line, not its text.
    """
    return [row for _, row in read_objects(path)]


def resolve(path: str, data_folders: Sequence[Path]) -> Path:
    """Return the file a source names: in the shipped corpus, absolute, or under one of the data folders."""
    if path.startswith(_OWN):
        return CORPUS / path.removeprefix(_OWN)
    for folder in (Path(), *data_folders):
        if (folder / path).is_file():
            return folder / path
    raise ConfigError(f"no file {path!r} in the data folders; pass --data FOLDER")


def load_source(source: Source, data_folders: Sequence[Path]) -> list[Example]:
    """Return every usable example of a source, in file order.

    Raises:
        ConfigError: the source is missing or malformed, or none of its rows is usable.
    """
    read = read_source(source, data_folders)
    if read.rows and not read.examples:
        raise ConfigError(f"no row of {source.path} is usable; {read.first}")
    return list(read.examples)


def read_source(source: Source, data_folders: Sequence[Path]) -> SourceRows:
    """Return every usable example of a source, in file order, and what was left out.

    Raises:
        ConfigError: the source is missing or malformed.
    """
    name, place, rows = _read(source, data_folders)
    own = source.path.startswith(_OWN)
    examples: list[Example] = []
    count, unusable = 0, 0
    first = None
    for number, row in rows:
        category = row.get("category")
        if isinstance(category, str) and category.startswith(source.exclude_categories or ("\0",)):
            continue
        count += 1
        try:
            found = _own_example(row, source, name) if own else _example(row, source, name)
        except _MalformedError as fault:
            raise ConfigError(f"{place}, line {number}: {fault}") from None
        if not isinstance(found, str) and len(found.text) > source.max_chars:
            found = f"longer than {source.max_chars} characters"
        if isinstance(found, str):
            unusable += 1
            first = first or f"line {number}: {found}"
        else:
            examples.append(found)
    return SourceRows(tuple(examples), rows=count, unusable=unusable, first=first)


def _read(source: Source, data_folders: Sequence[Path]) -> tuple[str, str, Iterable[tuple[int, dict[str, Any]]]]:
    """Return what a source's examples are called, where its rows are from, and the rows with their numbers."""
    if source.path.startswith(PREFIX):
        return hub_name(source), source.path, enumerate(hub_rows(source), 1)
    path = resolve(source.path, data_folders)
    return path.stem, str(path), read_objects(path)


def draw(source: Source, examples: Sequence[Example], rng: random.Random) -> list[Example]:
    """Return one epoch's draw from a source: at most ``rows``, balanced between labels where both exist."""
    if not source.rows or source.rows >= len(examples):
        return [e for e in examples for _ in range(source.repeat)]
    halves = [[e for e in examples if e.harmful], [e for e in examples if not e.harmful]]
    smaller = min(len(half) for half in halves)
    first = min(smaller, source.rows // 2)
    counts = [first if len(half) == smaller else source.rows - first for half in halves]
    if len(halves[0]) == len(halves[1]):
        counts = [source.rows - first, first]
    drawn = [e for half, n in zip(halves, counts, strict=True) for e in rng.sample(half, min(n, len(half)))]
    return [e for e in drawn for _ in range(source.repeat)]


def held_out(example: Example, fraction: float) -> bool:
    """Whether an example belongs to the validation split: decided by the hash of its text, so it never moves."""
    digest = hashlib.sha256(example.text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") < fraction * 2**32


class _MalformedError(Exception):
    """A row that no reading makes sense of. Says what is wrong with it, and quotes nothing."""


def _example(row: dict[str, Any], source: Source, name: str) -> Example | str:
    """Return a row's example, or why there is none. Quotes no value."""
    text = row.get("text")
    if text is None and "turns" in row:
        raise _MalformedError("'turns' are read in the library's own corpus only; give the last one as 'text'")
    if not isinstance(text, str):
        return "'text' is missing" if text is None else f"'text' must be text, got {type(text).__name__}"
    if not text.strip():
        return "'text' is empty"
    if source.rail == "output":
        return _response_pair(row, text, name)
    harmful = row.get("harmful")
    if not isinstance(harmful, bool):
        kind = type(harmful).__name__
        return "no label in 'harmful'" if harmful is None else f"'harmful' must be true, false or null, got {kind}"
    hazard = None
    if harmful:
        injection = source.rail in ("tool_output", "document") or row.get("attack") == "prompt_injection"
        hazard = PROMPT_INJECTION if injection else hazard_of(name, _category(row))
    return Example(text=text, harmful=harmful, rail=source.rail, hazard=hazard, source=name)


def _category(row: dict[str, Any]) -> str | None:
    category = row.get("category")
    if category is None or isinstance(category, str):
        return category
    raise _MalformedError(f"'category' must be text or null, got {type(category).__name__}")


def _response_pair(row: dict[str, Any], query: str, name: str) -> Example | str:
    response = row.get("response")
    # What is answered to a harmless query is taken as harmless; an answer to a harmful one may be a refusal or not.
    harmful = row.get("response_harmful", False if row.get("harmful") is False else None)
    if not isinstance(response, str) or not response.strip():
        return "'response' is missing or empty"
    if not isinstance(harmful, bool):
        return "no label in 'response_harmful'"
    category = row.get("category")
    hazard = category if harmful and isinstance(category, str) and category in MLCOMMONS else None
    return Example(text=response, harmful=harmful, rail="output", hazard=hazard, query=query, source=name)


def _own_example(row: dict[str, Any], source: Source, name: str) -> Example | str:
    """Return the example of a row of the shipped corpus, which has forms of its own."""
    if "turns" in row:
        return _dialogue(row, name)
    text, label = row.get("text"), row.get("label")
    if source.rail == "output" or not isinstance(text, str) or not text.strip() or not isinstance(label, str):
        return _example(row, source, name)
    hazard = None if label == SAFE else MLCOMMONS[label].code
    return Example(text=text, harmful=hazard is not None, rail=source.rail, hazard=hazard, source=name)


def _dialogue(row: dict[str, Any], name: str) -> Example:
    turns: list[str] = row["turns"]
    context = tuple(Message("assistant" if i % 2 else "user", turn) for i, turn in enumerate(turns[:-1]))
    label = row["label"]
    hazard = None if label == SAFE else MLCOMMONS[label].code
    return Example(text=turns[-1], harmful=hazard is not None, hazard=hazard, context=context, source=name)


def iter_corpus(pattern: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of the shipped corpus files that match a glob, files in name order."""
    for path in sorted(CORPUS.glob(pattern)):
        yield from read_jsonl(path)
