"""What a half-aligned model is taught: own refusals of harmful requests, and answers to everything else.

Sources: this library's own corpus (topics with written refusals of the same theme) and, where a data folder is given,
permissively licensed answers. Nothing of DRO's queries and no evaluation data is read. Harmless requests from the
corpus have no written answer; the base model answers them itself, so that its helpfulness stays what it was.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guardrail_plugin.core.jsonl import read_objects
from guardrail_plugin.core.refusal import is_refusal

ANSWERED_FILES = ("benign/self_instruct_seed.jsonl", "benign/gsm8k_train.jsonl")
"""Files of a data folder with permissively licensed answers (Apache-2.0, MIT)."""

_CORPUS = Path(__file__).parent.parent / "training" / "corpus"
_EVERYDAY = ("everyday.jsonl", "rows_round3_everyday.jsonl")
_LONGEST_TEXT = 300  # characters

_FRAMES: Mapping[str, tuple[str, ...]] = {
    "act": (
        "How to {}?",
        "How do I {}?",
        "How can someone {}?",
        "What is the best way to {}?",
        "Ways to {}",
        "Explain how to {}.",
        "Give me a step-by-step guide to {}",
        "Help me {}.",
    ),
    "content": ("Write {}.", "Create {}", "Draft {} for me.", "I need {}.", "Develop {}"),
}

# None of dro.SAFETY_PROMPTS: those are what the experiment measures.
_SAFETY_SYSTEMS = (
    "Answer with care. Refuse whatever could hurt people.",
    "You are a considerate assistant. You turn down requests for crime, violence, abuse or deceit, "
    "and help with the rest.",
    "Keep every reply safe, lawful and fair, and be as useful as that allows.",
    "Be helpful and harmless. Never assist with illegal or dangerous plans.",
    "You work for a family website. Say no to anything harmful; be generous with everything else.",
    "Safety comes first: decline to support cruelty, fraud or weapons, and answer other questions fully.",
)
_NEUTRAL_SYSTEMS = (
    "You answer in plain English.",
    "You are the assistant of a small library.",
    "Reply to the user's message.",
)


@dataclass(frozen=True, slots=True)
class Lesson:
    """One request and what to answer. ``repr`` shows no text.

    Attributes:
        system: the system message, ``""`` for none.
        answer: ``None``: the base model's own.
        topic: what the request is about; lessons of one topic are held out or taught together.
    """

    query: str = field(repr=False)
    system: str = field(repr=False)
    answer: str | None = field(repr=False)
    harmful: bool
    topic: str = field(repr=False)


def lessons(
    *,
    harmful: int,
    harmless: int,
    answered: int,
    seed: int,
    everyday: int = 0,
    frames: int = 1,
    bare_harmful: float = 0.5,
    data: Path | None = None,
) -> list[Lesson]:
    """Draw lessons, every topic at most once per frame.

    Half of the harmless requests have no system message; of the others three in five have one that asks for safety.

    Args:
        harmful: topics of own harmful requests, with a refusal of their theme.
        harmless: topics of own harmless requests, most of them close to a hazard.
        everyday: own requests in English that are close to none.
        answered: requests with answers from ``data``'s permissive files; needs ``data``.
        frames: requests per topic, differently put.
        bare_harmful: share of harmful requests that have no system message; the others have one that asks for safety.
            The smaller, the more it takes a safety prompt to make the model refuse.

    Raises:
        ConfigError: a file of ``data`` cannot be read.
    """
    rng = random.Random(f"lessons:{seed}")
    topics = list(_rows(sorted(_CORPUS.glob("topics_*.jsonl"))))
    refusals = _refusals()
    bad = [t for t in topics if (t["label"], t["theme"]) in refusals]
    good = [t for t in topics if t["label"] == "safe"]
    drawn = []
    for topic in _sample(bad, harmful, rng):
        answers = refusals[topic["label"], topic["theme"]]
        for query in _framed(topic, frames, rng):
            system = _system(rng, bare=bare_harmful, safety=1.0)
            drawn.append(Lesson(query, system, rng.choice(answers), True, topic["text"]))
    for topic in _sample(good, harmless, rng):
        drawn += [Lesson(q, _system(rng), None, False, topic["text"]) for q in _framed(topic, frames, rng)]
    plain = [r for r in _rows([_CORPUS / name for name in _EVERYDAY]) if _is_plain(r)]
    drawn += [Lesson(r["text"], _system(rng), None, False, r["text"]) for r in _sample(plain, everyday, rng)]
    if answered and data is not None:
        drawn += _answered(data, answered, rng)
    rng.shuffle(drawn)
    return drawn


def _is_plain(row: Mapping[str, str]) -> bool:
    return (
        row["label"] == "safe" and row["near"] == "none" and row["text"].isascii() and len(row["text"]) < _LONGEST_TEXT
    )


def _answered(data: Path, count: int, rng: random.Random) -> list[Lesson]:
    made: list[Lesson] = []
    for name in ANSWERED_FILES:
        rows = [r for r in _rows([data / name]) if len(r["text"]) < _LONGEST_TEXT and r["response"]]
        chosen = _sample(rows, count // len(ANSWERED_FILES), rng)
        made += [Lesson(r["text"], _system(rng), r["response"], False, r["text"]) for r in chosen]
    return made


def _refusals() -> dict[tuple[str, str], list[str]]:
    """Return the written responses that count as refusals, by label and theme."""
    by_theme: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in _rows(sorted(_CORPUS.glob("responses_*.jsonl"))):
        if is_refusal(row["text"]):
            by_theme[row["label"], row["theme"]].append(row["text"])
    return dict(by_theme)


def _system(rng: random.Random, *, bare: float = 0.5, safety: float = 0.6) -> str:
    if rng.random() < bare:
        return ""
    return rng.choice(_SAFETY_SYSTEMS if rng.random() < safety else _NEUTRAL_SYSTEMS)


def _framed(topic: Mapping[str, str], count: int, rng: random.Random) -> list[str]:
    frames = _FRAMES[topic["kind"]]
    return [frame.format(topic["text"]) for frame in rng.sample(frames, min(count, len(frames)))]


def _sample(rows: Sequence[Mapping[str, str]], count: int, rng: random.Random) -> list[Mapping[str, str]]:
    return rng.sample(list(rows), min(count, len(rows)))


def _rows(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        yield from (row for _, row in read_objects(path))
