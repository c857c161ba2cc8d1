"""The keys and values of what all rows of a batch begin with, computed once and shared.

Under one template every conversation begins with the same tokens and the soft prompt. Their keys and values do not
depend on what follows, so one row of them serves the batch: at 8 queries of 25 tokens behind a prompt of 100, a
training step runs 300 tokens through the model instead of 1,000.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.dro.inject import embed_row
from guardrail_plugin.models.chat_template import Row

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values of one sequence, (1, H, P, h) per layer.

    Attributes:
        length: P, in tokens.
    """

    cache: DynamicCache | None = field(repr=False)
    length: int

    @classmethod
    def empty(cls) -> Prefix:
        """Return the prefix of nothing."""
        return cls(None, 0)

    @classmethod
    def of_ids(cls, model: PreTrainedModel, ids: Sequence[int]) -> Prefix:
        """Compute the prefix of a template's head. No gradient flows into it."""
        if not ids:
            return cls.empty()
        with torch.no_grad():
            return cls.empty().extended(model, embed_row(Row(tuple(ids)), None, table=model.get_input_embeddings()))

    def extended(self, model: PreTrainedModel, embeds: Tensor) -> Prefix:
        """Return this prefix with more behind it; this one stays as it is.

        Shapes: embeds (L, d); the gradient reaches them through the cache.

        Raises:
            ConfigError: the model keeps a state that is not keys and values (a recurrent layer); it cannot be shared.
        """
        from transformers import DynamicCache

        cache = self.rows(1) or DynamicCache(config=model.config)
        model.get_decoder()(inputs_embeds=embeds.unsqueeze(0), past_key_values=cache, use_cache=True)
        if any(getattr(layer, "keys", None) is None for layer in cache.layers):
            raise ConfigError("this model's layers do not all cache keys and values; use share_prefix=False")
        return Prefix(cache, self.length + len(embeds))

    def rows(self, batch: int) -> DynamicCache | None:
        """Return a cache for a batch, free to be appended to: the shared tensors are expanded, never written."""
        if self.cache is None:
            return None
        fresh = copy.copy(self.cache)
        fresh.layers = [copy.copy(layer) for layer in self.cache.layers]
        for layer in fresh.layers:
            layer.keys = layer.keys.expand(batch, -1, -1, -1)
            layer.values = layer.values.expand(batch, -1, -1, -1)
        return fresh


def shared_prefix(
    model: PreTrainedModel, rows: Sequence[Row], soft: Tensor | None = None, *, head: Prefix | None = None
) -> tuple[Prefix, list[Row]]:
    """Compute what all rows begin with; return it and what is left of each row, at least one token.

    Args:
        model: its gradient mode is the caller's: with a soft prompt that is trained, the gradient goes through.
        rows: conversations, all with a place for the soft prompt or none.
        soft: (L, d).
        head: the prefix of ``shared_head(rows)`` where it is known already.

    Raises:
        ConfigError: with a soft prompt, rows that differ in what stands before it.
    """
    left = [row.ids for row in rows]
    prefix = head or Prefix.empty()
    if soft is not None:
        prefix = (head or Prefix.of_ids(model, shared_head(rows))).extended(model, soft.to(model.dtype))
        left = [row.rest for row in rows]
    common = _common([ids[:-1] for ids in left])
    if common:
        # Their keys and values depend on the soft prompt, so this is not ``of_ids``.
        prefix = prefix.extended(model, embed_row(Row(common), None, table=model.get_input_embeddings()))
    return prefix, [Row(ids[len(common) :]) for ids in left]


def shared_head(rows: Sequence[Row]) -> tuple[int, ...]:
    """Return the ids that stand before the soft prompt in every row.

    Raises:
        ConfigError: rows differ there, or one has no place for a soft prompt.
    """
    heads = {row.head for row in rows}
    if len(heads) != 1 or any(row.at is None for row in rows):
        raise ConfigError("these conversations do not share what comes before the soft prompt")
    return heads.pop()


def _common(sequences: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the longest common beginning: that of the first and the last in order."""
    first, last = min(sequences), max(sequences)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:length]
