"""Put a soft prompt's vectors where a conversation leaves a place for them (see ``models.chat_template``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from guardrail_plugin.models.chat_template import Row


@dataclass(frozen=True, slots=True)
class Embedded:
    """A padded batch, ready for a model.

    Shapes: inputs_embeds (B, T, d), attention_mask (B, P + T) where P tokens are already in the cache,
    position_ids (B, T), last (B,): where each row's last token stands.
    """

    inputs_embeds: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    last: Tensor


def embed_row(row: Row, soft: Tensor | None, *, table: nn.Module) -> Tensor:
    """Return a conversation's embeddings with the soft prompt in its place.

    Shapes: soft (L, d) → (T + L, d), in the dtype of the table; the gradient reaches the soft prompt.
    """
    device = next(table.parameters()).device
    with torch.no_grad():
        tokens = table(torch.tensor(row.ids, dtype=torch.long, device=device))  # (T, d)
    if row.at is None or soft is None:
        return tokens
    return torch.cat([tokens[: row.at], soft.to(tokens), tokens[row.at :]])


def embed_batch(
    rows: Sequence[Row],
    soft: Tensor | None,
    *,
    table: nn.Module,
    cached: int = 0,
    side: str = "right",
) -> Embedded:
    """Return a padded batch; pads are zero vectors that the mask hides.

    Args:
        rows: conversations.
        soft: (L, d), put where each row leaves a place for it.
        table: the model's input embedding.
        cached: number of tokens, the same for all rows, whose keys and values the model already has.
        side: ``"right"`` for reading hidden states, ``"left"`` for decoding.
    """
    embedded = [embed_row(row, soft, table=table) for row in rows]
    longest = max(len(one) for one in embedded)
    batch, device = len(embedded), embedded[0].device
    mask = torch.zeros(batch, longest, dtype=torch.long, device=device)  # (B, T)
    padded: list[Tensor] = []
    for i, one in enumerate(embedded):
        pad = longest - len(one)
        padded.append(nn.functional.pad(one, (0, 0, pad, 0) if side == "left" else (0, 0, 0, pad)))
        mask[i, pad if side == "left" else 0 : longest if side == "left" else len(one)] = 1
    positions = mask.cumsum(-1).clamp(min=1) - 1 + cached  # (B, T)
    last = mask.sum(-1) - 1 if side == "right" else mask.new_full((batch,), longest - 1)
    full = torch.cat([mask.new_ones(batch, cached), mask], dim=1)
    return Embedded(torch.stack(padded), full, positions, last)
