"""Draw k responses per query, with or without a soft prompt."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.dro.config import Sampling
from guardrail_plugin.dro.inject import embed_batch
from guardrail_plugin.dro.prefix import Prefix, shared_prefix
from guardrail_plugin.models.chat_template import ChatSplice, Row

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase


class Sampler:
    """Samples from one model. Not for use by two threads at once."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, sampling: Sampling) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._sampling = sampling
        self._stops = torch.tensor(sorted(stop_ids(model, tokenizer)))

    def responses(self, rows: Sequence[Row], soft: Tensor | None = None) -> Iterator[list[str]]:
        """Yield k responses per row, in order, as their batches end.

        A response depends on its row, its number and the seed, and not on what it was batched with, save for the
        rounding of the hardware.

        Args:
            rows: conversations that end where the assistant's turn begins.
            soft: (L, d), for rows that leave a place for it.
        """
        k = self._sampling.samples
        at_once = max(1, self._sampling.rows // k)
        if not rows:
            return
        with torch.inference_mode():
            prefix, behind = shared_prefix(self._model, rows, soft)
        for start in range(0, len(rows), at_once):
            batch = slice(start, start + at_once)
            tokens = self._decode(behind[batch], prefix, seeds=[self._seed_of(row) for row in rows[batch]])
            texts = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
            yield from (texts[i : i + k] for i in range(0, len(texts), k))

    @torch.inference_mode()
    def _decode(self, rows: Sequence[Row], prefix: Prefix, *, seeds: Sequence[int]) -> list[list[int]]:
        """Prefill each row once, repeat it k times, decode until all have ended."""
        k, steps = self._sampling.samples, self._sampling.max_new_tokens
        state = _Live.prefill(self._model, rows, prefix, samples=k)
        luck = _uniform_numbers(seeds, k, steps).to(state.logits.device)  # (B k, steps)
        made: list[list[int]] = [[] for _ in range(len(luck))]
        for step in range(steps):
            chosen = _choose(state.logits, luck[state.rows, step], self._sampling)  # (B',)
            goes_on = ~torch.isin(chosen.cpu(), self._stops)
            for row, token_id, on in zip(state.rows, chosen.tolist(), goes_on.tolist(), strict=True):
                if on:
                    made[row].append(token_id)
            chosen = state.keep(chosen, goes_on)
            if not state.rows or step + 1 == steps:
                break
            state.advance(self._model, chosen)
        return made

    def _seed_of(self, row: Row) -> int:
        digest = hashlib.sha256(f"{self._sampling.seed}:{row.ids}".encode()).digest()
        return int.from_bytes(digest[:7], "big")


@dataclass
class _Live:
    """The rows of a decode that have not ended; ended ones leave the cache.

    Shapes: logits (B', V), mask (B', P + T), positions (B', 1).
    """

    rows: list[int]
    logits: Tensor
    mask: Tensor
    positions: Tensor
    cache: DynamicCache

    @classmethod
    def prefill(cls, model: PreTrainedModel, rows: Sequence[Row], prefix: Prefix, *, samples: int) -> _Live:
        from transformers import DynamicCache

        batch = embed_batch(rows, None, table=model.get_input_embeddings(), cached=prefix.length, side="left")
        cache = prefix.rows(len(rows)) or DynamicCache(config=model.config)
        logits = model(
            inputs_embeds=batch.inputs_embeds,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]  # (B, V)
        cache.batch_repeat_interleave(samples)
        return cls(
            rows=list(range(len(rows) * samples)),
            logits=logits.repeat_interleave(samples, 0),
            mask=batch.attention_mask.repeat_interleave(samples, 0),
            positions=batch.position_ids[:, -1:].repeat_interleave(samples, 0),
            cache=cache,
        )

    def keep(self, chosen: Tensor, goes_on: Tensor) -> Tensor:
        """Drop the rows that ended; return the chosen tokens of the others."""
        if bool(goes_on.all()):
            return chosen
        kept = torch.nonzero(goes_on).flatten().to(chosen.device)
        self.rows = [self.rows[i] for i in kept.tolist()]
        if self.rows:
            self.cache.batch_select_indices(kept)
            self.mask, self.positions = self.mask[kept], self.positions[kept]
        return chosen[kept]

    def advance(self, model: PreTrainedModel, chosen: Tensor) -> None:
        """Run one token per row."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(chosen), 1)], dim=1)
        self.positions = self.positions + 1
        self.logits = model(
            input_ids=chosen[:, None],
            attention_mask=self.mask,
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the ids that end the assistant's turn."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = set(configured) if isinstance(configured, list) else {configured}
    return {int(end) for end in ends | {tokenizer.eos_token_id} if end is not None}


def turn_end(model: PreTrainedModel, splice: ChatSplice) -> int | None:
    """Return the id that ends the assistant's turn in the model's template; ``None`` for a model that has none.

    Of several that stop a decode one is the turn's own: Llama 3 stops at three, Qwen at the end of a text, too.
    """
    stops = stop_ids(model, splice.tokenizer)
    answer = tuple(splice.content_ids("answer"))
    try:
        ids = splice.row([{"role": "user", "content": "probe"}, {"role": "assistant", "content": "answer"}]).ids
    except ConfigError:  # a template that takes no answer before its own
        ids = ()
    places = [i for i in range(len(ids)) if ids[i : i + len(answer)] == answer]
    behind = ids[places[-1] + len(answer) :] if places else ()
    return next((i for i in behind if i in stops), min(stops, default=None))


def _uniform_numbers(seeds: Sequence[int], samples: int, steps: int) -> Tensor:
    """One stream of numbers per response, whatever it is batched with: (B k, steps) in [0, 1)."""
    streams = [random.Random(f"{seed}:{i}") for seed in seeds for i in range(samples)]
    return torch.tensor([[stream.random() for _ in range(steps)] for stream in streams], dtype=torch.float64)


def _choose(logits: Tensor, luck: Tensor, sampling: Sampling) -> Tensor:
    """Pick a token per row by inverting the distribution function: logits (B, V), luck (B,) → (B,)."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    limit = min(sampling.top_k or logits.shape[-1], logits.shape[-1])
    values, order = (logits.float() / sampling.temperature).topk(limit)  # (B, K), largest first
    probabilities = values.softmax(-1).double()
    outside = probabilities.cumsum(-1) - probabilities >= sampling.top_p
    reached = probabilities.masked_fill(outside, 0.0).cumsum(-1)  # (B, K)
    place = torch.searchsorted(reached, (luck * reached[:, -1])[:, None], right=True)  # (B, 1)
    return order.gather(1, place.clamp(max=limit - 1)).squeeze(1)
