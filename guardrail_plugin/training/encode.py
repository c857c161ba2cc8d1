"""Examples → token ids, and ids → batches with little padding."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.guardian.format import SAFE, Layout, ends, prompt, response_prompt
from guardrail_plugin.guardian.tokenizer import ContentTokenizer
from guardrail_plugin.training.config import TrainConfig
from guardrail_plugin.training.rows import Example

UNKNOWN_HAZARD = -1


@dataclass(frozen=True, slots=True)
class Encoded:
    """One training sequence.

    Attributes:
        ids: (L,) token ids.
        verdict_at: position whose next-token distribution is the verdict.
        label: index into ``layout.labels``, or ``UNKNOWN_HAZARD``: harmful, any hazard will do.
        response_from: first position whose *next* token belongs to the response; ``L`` if there is none.
    """

    ids: tuple[int, ...]
    verdict_at: int
    label: int
    response_from: int


def encode(
    example: Example, layout: Layout, tokenizer: ContentTokenizer, *, config: TrainConfig, rng: random.Random
) -> Encoded:
    """Lay out one example. A text that is too long loses its middle."""
    check = Check(text=example.text, rail=example.rail, query=example.query, context=example.context)
    content = ends(tokenizer.encode(example.text), min(config.max_tokens, layout.window_tokens))
    ids = prompt(layout, tokenizer, check, content)
    verdict_at = len(ids) - 1
    label = _label(example, layout)
    if example.response is None or example.hazard is None:
        return Encoded(ids, verdict_at, label, len(ids))
    shown = example.hazard
    if rng.random() < config.wrong_label_share:
        shown = rng.choice(layout.labels)
    start = response_prompt(ids, layout, shown)
    answer = tokenizer.encode(example.response)[: config.max_tokens]
    return Encoded((*start, *answer, layout.end_id), verdict_at, label, len(start) - 1)


def batches(rows: Sequence[Encoded], *, batch_tokens: int, rng: random.Random) -> list[list[Encoded]]:
    """Group rows of like length into batches of at most ``batch_tokens`` padded tokens, in random order.

    Rows are sorted within blocks, not as a whole, so the batches differ from epoch to epoch.
    """
    grouped: list[list[Encoded]] = []
    block = 2048
    for start in range(0, len(rows), block):
        batch: list[Encoded] = []
        for row in sorted(rows[start : start + block], key=lambda r: len(r.ids)):
            if batch and (len(batch) + 1) * len(row.ids) > batch_tokens:
                grouped.append(batch)
                batch = []
            batch.append(row)
        if batch:
            grouped.append(batch)
    rng.shuffle(grouped)
    return grouped


def _label(example: Example, layout: Layout) -> int:
    if not example.harmful:
        return layout.labels.index(SAFE)
    return UNKNOWN_HAZARD if example.hazard is None else layout.labels.index(example.hazard)
