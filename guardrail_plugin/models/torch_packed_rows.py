"""A batch of rows of the packed engine: one key/value store, filled in place and made anew where rows outgrow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from guardrail_plugin.models.kept import Ids, Prefix
from guardrail_plugin.models.torch_attention import Span

if TYPE_CHECKING:
    from guardrail_plugin.models.torch_packed import PackedEngine

_FIRST_ROOM = 128
"""Tokens that rows can grow by before they need a longer store: answers are far shorter than they may be, as a rule."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Tokens of several rows, one after the other.

    Attributes:
        ids, positions: (T,).
        slots: (T,) where each token's keys and values go: row x row length + position.
        spans: which row each stretch of tokens belongs to.
        read: (R,) tokens whose final states are wanted; each is the last of its span.
        read_spans: the same tokens as a batch of their own.
    """

    ids: Tensor
    positions: Tensor
    slots: Tensor
    spans: Sequence[Span]
    read: Tensor
    read_spans: Sequence[Span]


class PackedRows:
    """See ``Rows``. Row i's position p lives at ``kv[:, :, i, p]``: (layers, 2, rows, length, kv heads, head width).

    The store is as long as the longest prompt and a little more; rows that reach its end go over to one of twice the
    length. So memory follows what was generated, not what may be.
    """

    def __init__(self, engine: PackedEngine, prompts: Sequence[Ids], prefixes: Sequence[Prefix], *, room: int) -> None:
        self._engine = engine
        self._prompts = list(prompts)
        self._ends = [prefix.length for prefix in prefixes]  # positions computed so far
        longest = max(map(len, prompts))
        self._most = longest + room
        self._length = longest + min(room, _FIRST_ROOM)
        self._kv = engine.new_kv(len(prompts), self._length)
        self._final: list[Tensor | None] = [None] * len(prompts)  # (d,) once a row's last token was run
        self._states: Tensor | None = None  # (B, d) of all rows after a step
        for row, prefix in enumerate(prefixes):
            at = 0
            for segment in prefix.segments:
                self._kv[:, :, row, at : at + segment.shape[2]] = segment
                at += segment.shape[2]

    def prefill(self, most_tokens: int | None = None) -> bool:
        """Run prompt tokens; see ``Rows``."""
        left = most_tokens
        taken: list[tuple[int, Ids]] = []
        for row, prompt in enumerate(self._prompts):
            rest = prompt[self._ends[row] :]
            part = rest if left is None else rest[: max(left, 0)]
            if part:
                taken.append((row, part))
                left = None if left is None else left - len(part)
        if taken:
            self._run(taken)
        return all(end >= len(prompt) for end, prompt in zip(self._ends, self._prompts, strict=True))

    def advance(self, next_ids: Sequence[int]) -> None:
        """Append one token to every row and run it."""
        if max(self._ends) == self._length < self._most:
            self._lengthen()
        self._run([(row, (token,)) for row, token in enumerate(next_ids)])

    def logits(self, columns: Tensor | slice) -> Tensor:
        """Return next-token logits (B, K)."""
        states = self._states
        if states is None:
            states = self._states = torch.stack([final for final in self._final if final is not None])
        return self._engine.head(states, columns)

    def select(self, keep: Sequence[int]) -> list[int]:
        """Keep some rows: the last ones move into the places of those that left, so that little is copied."""
        wanted = set(keep)
        order = list(range(len(keep)))
        late = [row for row in keep if row >= len(keep)]
        for place in order:
            if place not in wanted:
                order[place] = late.pop()
                self._kv[:, :, place] = self._kv[:, :, order[place]]
        self._prompts = [self._prompts[row] for row in order]
        self._ends = [self._ends[row] for row in order]
        self._final = [self._final[row] for row in order]
        self._states = None
        return order

    def segment(self, row: int, start: int) -> Tensor:
        """Return a copy of a row's keys and values from ``start``."""
        return self._kv[:, :, row, start : self._ends[row]].clone()

    def _lengthen(self) -> None:
        """Go over to a store of twice the length. Rows that have left are not taken along."""
        filled = self._length
        self._length = min(2 * filled, self._most)
        kv = self._engine.new_kv(len(self._ends), self._length)
        kv[:, :, :, :filled] = self._kv[:, :, : len(self._ends)]
        self._kv = kv

    def _run(self, parts: Sequence[tuple[int, Ids]]) -> None:
        device = self._engine.device
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        spans: list[Span] = []
        for row, part in parts:
            first = self._ends[row]
            self._ends[row] += len(part)
            spans.append(Span(row, len(ids), len(ids) + len(part), self._ends[row]))
            ids += part
            positions += range(first, self._ends[row])
            slots += range(row * self._length + first, row * self._length + self._ends[row])
        ended = [span for span in spans if span.end >= len(self._prompts[span.row])]
        batch = Packed(
            ids=torch.tensor(ids, device=device),
            positions=torch.tensor(positions, device=device),
            slots=torch.tensor(slots, device=device),
            spans=spans,
            read=torch.tensor([span.stop - 1 for span in ended], dtype=torch.long, device=device),
            read_spans=[Span(span.row, i, i + 1, span.end) for i, span in enumerate(ended)],
        )
        states = self._engine.run(batch, self._kv)
        self._states = states if len(ended) == len(self._prompts) else None
        for span, state in zip(ended, states, strict=True):
            self._final[span.row] = state
