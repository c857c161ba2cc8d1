"""The hidden state at the last input token: where the paper reads harmfulness and refusal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.dro.inject import embed_batch
from guardrail_plugin.dro.prefix import Prefix, shared_prefix
from guardrail_plugin.models.chat_template import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAST_LAYER = -1


def hidden_states(
    model: PreTrainedModel, rows: Sequence[Row], soft: Tensor | None = None, *, layer: int = LAST_LAYER
) -> Tensor:
    """Return the hidden state of each row at its last token: (B, d) in float32, with a gradient to the soft prompt.

    Args:
        model: a causal language model; only its decoder runs, no logits are made.
        rows: conversations that end where the assistant's turn begins.
        soft: (L, d).
        layer: index into the hidden states of transformers: 0 embeddings, 1 the first layer, -1 the last one (after
            the final norm).
    """
    return hidden_after(model, rows, Prefix.empty(), soft=soft, layer=layer)


def hidden_after(
    model: PreTrainedModel,
    rows: Sequence[Row],
    prefix: Prefix,
    *,
    soft: Tensor | None = None,
    layer: int = LAST_LAYER,
) -> Tensor:
    """Return what ``hidden_states`` does for rows that begin behind a shared prefix: (B, d) in float32."""
    batch = embed_batch(rows, soft, table=model.get_input_embeddings(), cached=prefix.length)
    out = model.get_decoder()(
        inputs_embeds=batch.inputs_embeds,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        past_key_values=prefix.rows(len(rows)),
        use_cache=prefix.cache is not None,
        output_hidden_states=layer != LAST_LAYER,
    )
    states = out.last_hidden_state if layer == LAST_LAYER else _pick(out.hidden_states, layer)  # (B, T, d)
    return states[torch.arange(len(rows), device=states.device), batch.last].float()


@torch.no_grad()
def collect_states(
    model: PreTrainedModel,
    rows: Sequence[Row],
    soft: Tensor | None = None,
    *,
    layer: int = LAST_LAYER,
    batch_size: int = 16,
) -> Tensor:
    """Return the hidden states of many rows, batch by batch, on the CPU: (N, d) in float32.

    What all rows begin with, a safety prompt for example, is run once.
    """
    prefix, behind = shared_prefix(model, rows, soft)
    batches = [behind[i : i + batch_size] for i in range(0, len(behind), batch_size)]
    return torch.cat([hidden_after(model, batch, prefix, layer=layer).cpu() for batch in batches])


def _pick(states: Sequence[Tensor], layer: int) -> Tensor:
    if not -len(states) <= layer < len(states):
        raise ConfigError(f"layer {layer} is out of range: this model has hidden states 0 to {len(states) - 1}")
    return states[layer]
