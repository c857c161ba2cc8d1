"""Rows of JSONL files → training examples."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guardrail_plugin.core.categories import hazard_of
from guardrail_plugin.core.conversation import Message
from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.hazards import MLCOMMONS, PROMPT_INJECTION
from guardrail_plugin.core.verdict import Rail
from guardrail_plugin.training.config import Source
from guardrail_plugin.training.hub import PREFIX, hub_name, hub_rows

SAFE = "safe"
CORPUS = Path(__file__).parent / "corpus"


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
        response: a safeguard response to learn to write, or ``None``.
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


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a JSONL file.

    Raises:
        ConfigError: it is missing or a line is not a JSON object; the message names the line, not its text.
    """
    rows: list[dict[str, Any]] = []
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    raise ConfigError(f"{path}, line {number}: not JSON") from None
                if not isinstance(row, dict):
                    raise ConfigError(f"{path}, line {number}: not a JSON object")
                rows.append(row)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    return rows


def resolve(path: str, data_folders: Sequence[Path]) -> Path:
    """Return the file a source names: in the shipped corpus, absolute, or under one of the data folders."""
    if path.startswith("corpus:"):
        return CORPUS / path.removeprefix("corpus:")
    for folder in (Path(), *data_folders):
        if (folder / path).is_file():
            return folder / path
    raise ConfigError(f"no file {path!r} in the data folders; pass --data FOLDER")


def load_source(source: Source, data_folders: Sequence[Path]) -> list[Example]:
    """Return every usable example of a source, in file order."""
    name, rows = _read(source, data_folders)
    examples = []
    for row in rows:
        category = row.get("category")
        if isinstance(category, str) and category.startswith(source.exclude_categories or ("\0",)):
            continue
        example = _example(row, source, name)
        if example is not None and len(example.text) <= source.max_chars:
            examples.append(example)
    return examples


def _read(source: Source, data_folders: Sequence[Path]) -> tuple[str, Iterable[dict[str, Any]]]:
    """Return what a source's examples are called, and its rows."""
    if source.path.startswith(PREFIX):
        return hub_name(source), hub_rows(source)
    path = resolve(source.path, data_folders)
    return path.stem, read_jsonl(path)


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


def _example(row: dict[str, Any], source: Source, name: str) -> Example | None:
    if "turns" in row:
        return _dialogue(row, name)
    text = row.get("text")
    if not isinstance(text, str) or not text.strip():
        return None
    if source.rail == "output":
        return _response_pair(row, text, name)
    label = row.get("label")
    if isinstance(label, str):  # our own corpus
        hazard = None if label == SAFE else MLCOMMONS[label].code
        return Example(text=text, harmful=hazard is not None, rail=source.rail, hazard=hazard, source=name)
    harmful = row.get("harmful")
    if not isinstance(harmful, bool):
        return None
    hazard = None
    if harmful:
        injection = source.rail in ("tool_output", "document") or row.get("attack") == "prompt_injection"
        hazard = PROMPT_INJECTION if injection else hazard_of(name, row.get("category"))
    response = row.get("response") if harmful and isinstance(row.get("response"), str) else None
    return Example(text=text, harmful=harmful, rail=source.rail, hazard=hazard, response=response, source=name)


def _response_pair(row: dict[str, Any], query: str, name: str) -> Example | None:
    response, harmful = row.get("response"), row.get("response_harmful", False)
    if not isinstance(response, str) or not response.strip() or not isinstance(harmful, bool):
        return None
    category = row.get("category")
    hazard = category if harmful and isinstance(category, str) and category in MLCOMMONS else None
    return Example(text=response, harmful=harmful, rail="output", hazard=hazard, query=query, source=name)


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
