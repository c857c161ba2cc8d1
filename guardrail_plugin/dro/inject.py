"""Put a soft prompt where the system message stands in a model's own chat template.

The place is found by construction: the template is rendered with placeholders for the contents and for the soft
prompt, and the rendering is cut at them. Nothing is searched for in token ids, so every row and every template that
renders its contents once is right. Contents are tokenised apart, with special tokens split into plain characters: a
message that says ``<|im_end|>`` cannot close its own turn.

Templates without a system role (Gemma, early Mistral) get what their makers recommend for system text: it stands at
the beginning of the first user message, a blank line before the message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import jinja2
import torch
from torch import Tensor, nn

from guardrail_plugin.core.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ChatMessage: TypeAlias = Mapping[str, str]
"""``{"role": ..., "content": ...}`` with plain text."""

# Private-use characters that no template contains; the number says whose content stands there.
_SLOT = re.compile("\ue000([0-9]+)\ue001")
_BLANK_LINE = "\n\n"


@dataclass(frozen=True, slots=True)
class Row:
    """The ids of one conversation without its soft prompt. ``repr`` shows no ids.

    Attributes:
        ids: what the template and the contents say.
        at: the soft prompt stands before ``ids[at]``; ``None``: there is none.
    """

    ids: tuple[int, ...] = field(repr=False)
    at: int | None = None

    @property
    def head(self) -> tuple[int, ...]:
        """What comes before the soft prompt: the same for all conversations under one template."""
        return self.ids[: self.at or 0]

    @property
    def rest(self) -> tuple[int, ...]:
        """What comes after the soft prompt."""
        return self.ids[self.at or 0 :]

    def continued(self, ids: Sequence[int]) -> Row:
        """Return this conversation with an answer's ids behind it."""
        return Row((*self.ids, *ids), self.at)


class ChatSplice:
    """Turns conversations into rows. Safe to share between threads once built.

    Attributes:
        has_system_role: whether the template renders a system message. If not, system text and soft prompt stand at
            the beginning of the first user message.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, options: Mapping[str, object] | None = None) -> None:
        """Probe the tokenizer's chat template.

        Args:
            tokenizer: with a chat template.
            options: passed to the template on every rendering (``enable_thinking=False`` for Qwen 3, for example).

        Raises:
            ConfigError: there is no template, or it cannot render a lone user message.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError("the tokenizer has no chat template")
        self._tokenizer = tokenizer
        self._options = dict(options or {})
        self.has_system_role = self._renders_system()
        self.row([{"role": "user", "content": "probe"}])

    def row(self, messages: Sequence[ChatMessage], *, soft: bool = False) -> Row:
        """Return a conversation's ids, ready for the assistant's turn.

        Args:
            messages: a leading system message is kept; with a soft prompt it stands behind it, after a blank line.
            soft: leave a place for the soft prompt.

        Raises:
            ConfigError: the template refuses these messages, or drops or repeats a content.
        """
        slots: list[str | None] = []
        slotted = [
            {"role": role, "content": _BLANK_LINE.join(_take_slot(part, slots) for part in parts)}
            for role, parts in self._turns(messages, soft)
        ]
        pieces = _SLOT.split(self._render(slotted))  # template, number, template, number, ..., template
        if sorted(int(number) for number in pieces[1::2]) != list(range(len(slots))):
            raise ConfigError("the chat template drops or repeats a message's content")
        ids: list[int] = []
        at: int | None = None
        for place, piece in enumerate(pieces):
            if place % 2 == 0:
                ids += self._encode(piece, split_special_tokens=False)
                continue
            content = slots[int(piece)]
            if content is None:
                at = len(ids)
            else:
                ids += self.content_ids(content)
        return Row(tuple(ids), at)

    def content_ids(self, text: str) -> list[int]:
        """Return the ids that a text has as a message's content."""
        clean = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        return self._encode(clean, split_special_tokens=True)

    def _turns(self, messages: Sequence[ChatMessage], soft: bool) -> list[tuple[str, list[str | None]]]:
        """Return (role, parts) per turn; ``None`` among the parts is the soft prompt."""
        turns: list[tuple[str, list[str | None]]] = [(m["role"], [m["content"]]) for m in messages]
        lead: list[str | None] = [None] if soft else []
        if turns and turns[0][0] == "system":
            lead += turns.pop(0)[1]
        if not lead:
            return turns
        if self.has_system_role:
            return [("system", lead), *turns]
        if not turns or turns[0][0] != "user":
            raise ConfigError("this chat template has no system role: the conversation must begin with a user message")
        return [("user", lead + turns[0][1]), *turns[1:]]

    def _renders_system(self) -> bool:
        probe = [{"role": "system", "content": "\ue0000\ue001"}, {"role": "user", "content": "probe"}]
        try:
            return len(_SLOT.findall(self._render(probe))) == 1
        except ConfigError:
            return False

    def _render(self, messages: Sequence[ChatMessage]) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True, **self._options
            )
        except (jinja2.TemplateError, TypeError, KeyError) as error:
            raise ConfigError(f"the chat template refuses this conversation ({type(error).__name__})") from None
        return text

    def _encode(self, text: str, *, split_special_tokens: bool) -> list[int]:
        ids: list[int] = self._tokenizer.encode(
            text, add_special_tokens=False, split_special_tokens=split_special_tokens
        )
        return ids


def _take_slot(part: str | None, slots: list[str | None]) -> str:
    slots.append(part)
    return f"\ue000{len(slots) - 1}\ue001"


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
