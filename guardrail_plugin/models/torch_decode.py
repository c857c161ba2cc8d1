"""Step-wise decoding of a batch, so that the pool can admit verdicts between steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from guardrail_plugin.pool.protocol import GenerateRequest, Token


class TorchDecode:
    """A decode in progress. Rows that end leave the cache, so a long row does not pay for short ones.

    Prompts are left-padded to one length; positions count real tokens only.
    """

    def __init__(
        self,
        model: Any,
        batch: Sequence[GenerateRequest],
        *,
        device: torch.device,
        first_suppressed: int | None = None,
        pad_id: int = 0,
    ) -> None:
        self._model = model
        self._device = device
        self._first_suppressed = first_suppressed
        self._requests = list(batch)
        self._live = list(range(len(batch)))
        self._made = [0] * len(batch)
        self._generators = [torch.Generator().manual_seed(request.seed) for request in batch]
        longest = max(len(request.input_ids) for request in batch)
        ids = torch.full((len(batch), longest), pad_id, dtype=torch.long)  # (B, L)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(batch):
            ids[row, longest - len(request.input_ids) :] = torch.tensor(request.input_ids)
            mask[row, longest - len(request.input_ids) :] = 1
        self._next_ids = ids.to(device)
        self._mask = mask.to(device)
        self._cache: Any = DynamicCache(config=model.config)
        self._cancelled: set[int] = set()

    @torch.inference_mode()
    def step(self) -> list[Token]:
        """Advance every live row by one token; rows that end here are reported with their reason."""
        news = self._drop_cancelled()
        if not self._live:
            return news
        positions = self._mask.cumsum(-1).clamp(min=1)[:, -self._next_ids.shape[1] :] - 1  # (B, T)
        logits = self._model(
            input_ids=self._next_ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]  # (B, V)
        if self._first_suppressed is not None:
            logits[:, self._first_suppressed :] = -torch.inf
        chosen = [self._choose(row, logits[i]) for i, row in enumerate(self._live)]
        kept = []
        for i, (row, token_id) in enumerate(zip(self._live, chosen, strict=True)):
            self._made[row] += 1
            if token_id in self._requests[row].stop_ids:
                news.append(Token(row, None, "stop"))
            elif self._made[row] >= self._requests[row].max_new_tokens:
                news += [Token(row, token_id), Token(row, None, "length")]
            else:
                news.append(Token(row, token_id))
                kept.append(i)
        self._keep(kept, chosen)
        return news

    def cancel(self, row: int) -> None:
        """Stop one row before the next step."""
        self._cancelled.add(row)

    def close(self) -> None:
        """Free the caches."""
        self._live = []
        self._cache = None

    def _drop_cancelled(self) -> list[Token]:
        gone = [row for row in self._live if row in self._cancelled]
        if not gone:
            return []
        kept = [i for i, row in enumerate(self._live) if row not in self._cancelled]
        self._select(kept)
        self._next_ids = self._next_ids[kept]
        return [Token(row, None, "cancelled") for row in gone]

    def _keep(self, kept: list[int], chosen: Sequence[int]) -> None:
        """Go on with some rows of the current batch, each continued by its chosen token."""
        self._next_ids = torch.tensor([[chosen[i]] for i in kept], dtype=torch.long, device=self._device)  # (B', 1)
        if len(kept) < len(self._live):
            self._select(kept)
        if kept:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(kept), 1)], dim=1)

    def _select(self, kept: list[int]) -> None:
        self._live = [self._live[i] for i in kept]
        if not self._live:
            self.close()
            return
        index = torch.tensor(kept, device=self._device)
        self._mask = self._mask[index]
        if self._cache.get_seq_length() > 0:
            self._cache.batch_select_indices(index)

    def _choose(self, row: int, logits: Tensor) -> int:
        """Pick a token from logits (V,): greedy at temperature 0, else top-k and nucleus sampling."""
        request = self._requests[row]
        if request.temperature <= 0:
            return int(logits.argmax())
        scaled = logits.float().cpu() / request.temperature
        if request.top_k:
            scaled[scaled < scaled.topk(min(request.top_k, scaled.numel())).values[-1]] = -torch.inf
        probabilities, order = scaled.softmax(-1).sort(descending=True)
        outside = probabilities.cumsum(-1) - probabilities >= request.top_p
        probabilities[outside] = 0.0
        return int(order[torch.multinomial(probabilities, 1, generator=self._generators[row])])
