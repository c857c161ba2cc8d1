"""Causal attention of packed tokens over their own rows of a key/value store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Span(NamedTuple):
    """Tokens ``start:stop`` of a batch are the positions ``end - (stop - start) : end`` of a row."""

    row: int
    start: int
    stop: int
    end: int

    @property
    def queries(self) -> int:
        """Number of tokens."""
        return self.stop - self.start


class Attention:
    """Attention over a set of spans; what does not depend on the layer is computed once. Heads: of the queries.

    On a CPU each row is computed alone, which wastes nothing on padding; on an accelerator, and where every row has one
    query, all at once. Source: one block of SmolLM2, 10 rows of 14 to 66 tokens after 65 cached ones, one CPU thread:
    1.4 ms by row, 2.6 ms padded.
    """

    def __init__(self, spans: Sequence[Span], *, heads: int, kv_heads: int, like: Tensor) -> None:
        self._spans = spans
        self._kv_heads = kv_heads
        self._groups = heads // kv_heads
        self._alone = like.device.type == "cpu" and any(span.queries > 1 for span in spans)
        if self._alone:
            self._masks = [self._causal(span, like) for span in spans]
        else:
            self._lay_out(like.device)

    def __call__(self, q: Tensor, kv: Tensor) -> Tensor:
        """Return the output (T, H x D) of queries (T, H, D) over kv (2, rows, length, kv heads, D)."""
        if self._alone:
            return torch.cat(
                [self._row(q[s.start : s.stop], kv, s, mask) for s, mask in zip(self._spans, self._masks, strict=True)]
            )
        return self._together(q, kv)

    def _causal(self, span: Span, like: Tensor) -> Tensor | None:
        if span.queries == 1:
            return None  # the newest token sees everything
        hidden = torch.full((span.queries, span.end), -torch.inf, dtype=like.dtype, device=like.device)
        return hidden.triu_(span.end - span.queries + 1).repeat(self._groups, 1)

    def _row(self, q: Tensor, kv: Tensor, span: Span, mask: Tensor | None) -> Tensor:
        k, v = kv[:, span.row, : span.end].transpose(1, 2)  # each (kv heads, end, D)
        # Heads that share keys stand as further queries: no key is repeated.
        folded = q.unflatten(1, (self._kv_heads, self._groups)).permute(1, 2, 0, 3).flatten(1, 2)
        out = F.scaled_dot_product_attention(folded[None], k[None], v[None], attn_mask=mask)
        return out[0].unflatten(1, (self._groups, -1)).permute(2, 0, 1, 3).flatten(1)

    def _lay_out(self, device: torch.device) -> None:
        rows = [span.row for span in self._spans]
        self._rows = None if rows == list(range(len(rows))) else torch.tensor(rows, device=device)
        self._longest = max(span.end for span in self._spans)
        starts, counts, ends = torch.tensor([(s.start, s.queries, s.end) for s in self._spans], device=device).T
        step = torch.arange(max(span.queries for span in self._spans), device=device)
        # Rows with fewer queries repeat their last one; what comes of the copies is not read.
        within = torch.minimum(step, counts[:, None] - 1)  # (B, M)
        self._at = starts[:, None] + within
        self._real = step < counts[:, None]
        sees = (ends - counts)[:, None] + within  # position of each query
        visible = torch.arange(self._longest, device=device) <= sees[..., None]  # (B, M, longest)
        self._mask = visible.repeat(1, self._groups, 1)[:, None]  # (B, 1, G x M, longest)

    def _together(self, q: Tensor, kv: Tensor) -> Tensor:
        own = kv[:, : len(self._spans)] if self._rows is None else kv[:, self._rows]
        k, v = own[:, :, : self._longest].transpose(2, 3)  # each (B, kv heads, longest, D)
        folded = q[self._at].unflatten(2, (self._kv_heads, self._groups)).permute(0, 2, 3, 1, 4)  # (B, kvh, G, M, D)
        out = F.scaled_dot_product_attention(folded.flatten(2, 3), k, v, attn_mask=self._mask)
        return out.unflatten(2, (self._groups, -1)).permute(0, 3, 1, 2, 4).flatten(2)[self._real]  # (T, H x D)
