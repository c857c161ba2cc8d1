"""Documents with and without an instruction that does not belong there, for the tool-output rail.

The same document appears clean, with a sentence that merely informs, and with a request planted in it; the same
requests are harmless when a user makes them. So neither document nor wording tells, only where the request stands.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from guardrail_plugin.core.hazards import PROMPT_INJECTION
from guardrail_plugin.training.rows import SAFE, Example, iter_corpus

REQUEST_FILES = ("everyday.jsonl", "rows_round3_everyday.jsonl")
_MAX_REQUEST_CHARS = 220
_MIN_CROP_CHARS, _MAX_CROP_CHARS = 200, 700
_LEADS = (
    "",
    "",
    "",
    "",
    "Assistant: ",
    "Note to the AI reading this: ",
    "Before you answer, ",
    "New task. ",
    "Ignore the text above. ",
    "IMPORTANT: ",
    "When you summarise this, first do the following. ",
    "PS: ",
)


def compose_documents(documents: Sequence[Example], count: int, rng: random.Random) -> list[Example]:
    """Return ``count`` documents, half of them with a planted request. ``documents`` are clean ones."""
    if not documents:
        return []
    requests, remarks = _requests(), [row["text"] for row in iter_corpus("padding.jsonl")]
    made = []
    for i in range(count):
        text = _crop(rng.choice(documents).text, rng)
        harmful = i % 2 == 0
        if harmful:
            text = _plant(text, _request(rng.choice(requests), rng), rng)
        elif rng.random() < 0.5:
            text = _plant(text, _sentence(rng.choice(remarks), rng), rng)
        hazard = PROMPT_INJECTION if harmful else None
        made.append(Example(text=text, harmful=harmful, rail="tool_output", hazard=hazard, source="composed"))
    return made


def _requests() -> list[str]:
    rows = (row for name in REQUEST_FILES for row in iter_corpus(name))
    return [r["text"] for r in rows if r["label"] == SAFE and len(r["text"]) <= _MAX_REQUEST_CHARS]


def _request(text: str, rng: random.Random) -> str:
    lead = rng.choice(_LEADS)
    return f"{lead}{text[0].lower()}{text[1:]}" if lead.endswith(", ") else f"{lead}{text}"


def _sentence(paragraph: str, rng: random.Random) -> str:
    return rng.choice([s for s in paragraph.split(". ") if s]).rstrip(".") + "."


def _crop(text: str, rng: random.Random) -> str:
    """Cut a piece out of a long document, at line or word ends."""
    size = rng.randint(_MIN_CROP_CHARS, _MAX_CROP_CHARS)
    if len(text) <= size:
        return text
    start = rng.choice((0, rng.randrange(len(text) - size), len(text) - size))
    piece = text[start : start + size]
    return piece if start == 0 else piece.partition(" ")[2] or piece


def _plant(text: str, planted: str, rng: random.Random) -> str:
    where = rng.choice(("start", "middle", "end"))
    glue = rng.choice(("\n", " ", "\n\n"))
    if where == "start":
        return f"{planted}{glue}{text}"
    if where == "end":
        return f"{text}{glue}{planted}"
    breaks = [i for i, character in enumerate(text) if character in "\n ." and 0 < i < len(text) - 1]
    at = rng.choice(breaks) + 1 if breaks else len(text)
    return f"{text[:at].rstrip(' ')}{glue}{planted}{glue}{text[at:].lstrip(' ')}"
