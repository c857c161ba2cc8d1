"""Step-wise decoding of a batch, so that the pool can admit verdicts between steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from guardrail_plugin.models.kept import Ids
from guardrail_plugin.models.rows import Rows
from guardrail_plugin.pool.protocol import GenerateRequest, Token

PREFILL_TOKENS = 512
"""Prompt tokens that one step runs at most, so that a long prompt does not keep verdicts waiting."""


class TorchDecode:
    """A decode in progress. Rows that end leave the batch, so a long row does not pay for short ones.

    Args:
        columns: the vocabulary that may be generated.
        keep: told of every row that ends by itself: the rows, its place in them, and the ids that were run.
    """

    def __init__(
        self,
        batch: Sequence[GenerateRequest],
        rows: Rows,
        *,
        columns: slice,
        keep: Callable[[Rows, int, Ids], None] | None = None,
    ) -> None:
        self._requests = list(batch)
        self._rows: Rows | None = rows
        self._columns = columns
        self._keep = keep
        self._live = list(range(len(batch)))  # which request stands at each place of the rows
        self._made: list[list[int]] = [[] for _ in batch]
        self._generators = [torch.Generator().manual_seed(request.seed) for request in batch]
        self._prefilled = False
        self._cancelled: set[int] = set()

    @torch.inference_mode()
    def step(self) -> list[Token]:
        """Advance every live row by one token; rows that end here are reported with their reason.

        While prompts are still being run the news is a token that says nothing.
        """
        news = self._drop_cancelled()
        if self._rows is None:
            return news
        if self._prefilled:
            self._rows.advance([self._made[row][-1] for row in self._live])
        elif not self._rows.prefill(PREFILL_TOKENS):
            return [*news, Token(self._live[0], None)]
        self._prefilled = True
        return news + self._choose_all(self._rows)

    def cancel(self, row: int) -> None:
        """Stop one row before the next step."""
        self._cancelled.add(row)

    def close(self) -> None:
        """Free the caches."""
        self._live = []
        self._rows = None

    def _choose_all(self, rows: Rows) -> list[Token]:
        logits = rows.logits(self._columns)  # (B, V)
        greedy = logits.argmax(-1).tolist()
        news: list[Token] = []
        going: list[int] = []
        for place, row in enumerate(self._live):
            request, made = self._requests[row], self._made[row]
            token_id = greedy[place] if request.temperature <= 0 else self._sample(row, logits[place])
            ended = token_id in request.stop_ids
            if not ended:
                made.append(token_id)
                news.append(Token(row, token_id))
            if ended or len(made) >= request.max_new_tokens:
                news.append(Token(row, None, "stop" if ended else "length"))
                self._give_away(rows, place, row, pending=not ended)
            else:
                going.append(place)
        self._go_on_with(going)
        return news

    def _give_away(self, rows: Rows, place: int, row: int, *, pending: bool) -> None:
        """Hand an ended row to whoever keeps rows; the newest token was not run where it is ``pending``."""
        if self._keep is not None:
            made = self._made[row][:-1] if pending else self._made[row]
            self._keep(rows, place, (*self._requests[row].input_ids, *made))

    def _drop_cancelled(self) -> list[Token]:
        gone = [row for row in self._live if row in self._cancelled]
        if gone:
            self._go_on_with([place for place, row in enumerate(self._live) if row not in self._cancelled])
        return [Token(row, None, "cancelled") for row in gone]

    def _go_on_with(self, places: Sequence[int]) -> None:
        if not places:
            self.close()
        elif self._rows is not None and len(places) < len(self._live):
            self._live = [self._live[place] for place in self._rows.select(places)]

    def _sample(self, row: int, logits: Tensor) -> int:
        """Pick a token from logits (V,): top-k, then nucleus sampling."""
        request = self._requests[row]
        scaled = logits.cpu() / request.temperature
        if request.top_k:
            scaled[scaled < scaled.topk(min(request.top_k, scaled.numel())).values[-1]] = -torch.inf
        probabilities, order = scaled.softmax(-1).sort(descending=True)
        outside = probabilities.cumsum(-1) - probabilities >= request.top_p
        outside[0] = False  # the likeliest token stays, whatever top_p says
        probabilities[outside] = 0.0
        return int(order[torch.multinomial(probabilities, 1, generator=self._generators[row])])
