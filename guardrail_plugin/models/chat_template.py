"""Chat messages → token ids through the model's own chat template, with a place for a soft prompt.

The template is rendered with placeholders for the contents and for the soft prompt, and the rendering is cut at them.
Nothing is searched for in token ids, so every row and every template that renders its contents once is right. What lies
between placeholders is tokenised with special tokens recognised, the contents with special tokens split into plain
characters: a message that says ``<|im_end|>`` cannot close its own turn.

The soft prompt stands where the system message stands. Templates without a system role (Gemma, early Mistral) get what
their makers recommend for system text: it stands at the beginning of the first user message, a blank line before it.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.models.load import import_torch

_encoding = threading.Lock()  # one for all: tokenizers may be shared

ChatMessage: TypeAlias = Mapping[str, Any]
"""``{"role": ..., "content": ...}`` with plain text; ``tool_calls``, ``tool_call_id`` and ``name`` are kept."""

# Private-use characters that no template contains; the number says whose content stands there.
_SLOT = re.compile("\ue000([0-9]+)\ue001")
_BLANK_LINE = "\n\n"
_PROBE_TOOL = {
    "type": "function",
    "function": {"name": "probe_tool", "description": "", "parameters": {"type": "object", "properties": {}}},
}


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
        tokenizer: as given.
        has_system_role: whether the template renders a system message. If not, system text and soft prompt stand at
            the beginning of the first user message.
    """

    def __init__(self, tokenizer: Any, *, options: Mapping[str, object] | None = None) -> None:
        """Probe the tokenizer's chat template.

        Args:
            tokenizer: with a chat template.
            options: passed to the template on every rendering (``enable_thinking=False`` for Qwen 3, for example).

        Raises:
            ConfigError: there is no template, or it cannot render a lone user message.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError("the tokenizer has no chat template")
        self.tokenizer = tokenizer
        self._options = dict(options or {})
        self.has_system_role = self._renders_system()
        self.row([{"role": "user", "content": "probe"}])

    @classmethod
    def of_folder(cls, folder: Path) -> ChatSplice:
        """Read the tokenizer of a model's folder.

        Raises:
            ConfigError: it has no chat template, or one that cannot be used.
            MissingDependencyError: torch or transformers is not installed.
        """
        import_torch()
        from transformers import AutoTokenizer

        return cls(AutoTokenizer.from_pretrained(folder, trust_remote_code=False))

    @property
    def renders_tools(self) -> bool:
        """Whether the template tells the model of tools."""
        try:
            return "probe_tool" in self._render([{"role": "user", "content": "probe"}], tools=[_PROBE_TOOL])
        except ConfigError:
            return False

    def row(self, messages: Sequence[ChatMessage], *, soft: bool = False, **options: object) -> Row:
        """Return a conversation's ids, ready for the assistant's turn.

        Args:
            messages: a leading system message is kept; with a soft prompt it stands behind it, after a blank line.
            soft: leave a place for the soft prompt.
            options: passed to the template (``tools`` for example).

        Raises:
            ConfigError: the template refuses these messages, or drops or repeats a content.
        """
        slots = _Slots()
        rendered = self._render([slots.message(turn, parts) for turn, parts in self._turns(messages, soft)], **options)
        pieces = _SLOT.split(rendered)  # template, number, template, number, ..., template
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

    @property
    def source(self) -> str:
        """The template itself."""
        return str(self.tokenizer.chat_template)

    def template_ids(self, text: str) -> list[int]:
        """Return the ids of a text that is trusted like the template: special tokens are recognised."""
        return self._encode(text, split_special_tokens=False)

    def content_ids(self, text: str) -> list[int]:
        """Return the ids that a text has as a message's content."""
        clean = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        return self._encode(clean, split_special_tokens=True)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of generated ids without special tokens."""
        text: str = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        return text

    def _turns(self, messages: Sequence[ChatMessage], soft: bool) -> list[tuple[ChatMessage, list[str | None]]]:
        """Return (message, parts of its content) per turn; ``None`` among the parts is the soft prompt."""
        turns: list[tuple[ChatMessage, list[str | None]]] = [(m, [str(m["content"])]) for m in messages]
        lead: list[str | None] = [None] if soft else []
        if turns and turns[0][0]["role"] == "system":
            lead += turns.pop(0)[1]
        if not lead:
            return turns
        if self.has_system_role:
            return [({"role": "system"}, lead), *turns]
        if not turns or turns[0][0]["role"] != "user":
            raise ConfigError("this chat template has no system role: the conversation must begin with a user message")
        return [(turns[0][0], lead + turns[0][1]), *turns[1:]]

    def _renders_system(self) -> bool:
        probe = [{"role": "system", "content": "\ue0000\ue001"}, {"role": "user", "content": "probe"}]
        try:
            return len(_SLOT.findall(self._render(probe))) == 1
        except ConfigError:
            return False

    def _render(self, messages: Sequence[ChatMessage], **options: object) -> str:
        import jinja2

        try:
            text: str = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True, **{**self._options, **options}
            )
        except (jinja2.TemplateError, TypeError, KeyError) as error:
            raise ConfigError(f"the chat template refuses this conversation ({type(error).__name__})") from None
        return text

    def _encode(self, text: str, *, split_special_tokens: bool) -> list[int]:
        # Whether special tokens are split is a setting of the tokenizer: another thread must not change it meanwhile.
        with _encoding:
            ids: list[int] = self.tokenizer.encode(
                text, add_special_tokens=False, split_special_tokens=split_special_tokens
            )
        return ids


class _Slots(list["str | None"]):
    """What stands at each placeholder; ``None`` is the soft prompt."""

    def message(self, message: ChatMessage, parts: Sequence[str | None]) -> dict[str, Any]:
        """Return a message with placeholders for its content and for what its tool calls say."""
        written = parts != [""]  # templates ask whether there is a content beside tool calls
        slotted = {**message, "content": _BLANK_LINE.join(self._take(part) for part in parts) if written else ""}
        if "tool_calls" in message:
            slotted["tool_calls"] = [self._call(call) for call in message["tool_calls"]]
        return slotted

    def _call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        function = call["function"]
        inside = {name: self._inside(function[name]) for name in ("name", "arguments")}
        return {**call, "function": {**function, **inside}}

    def _inside(self, value: Any) -> Any:
        """Replace every text inside JSON by a placeholder, names too: templates write both as JSON."""
        if isinstance(value, str):
            return self._take(json.dumps(value, ensure_ascii=False)[1:-1])
        if isinstance(value, Mapping):
            return {self._inside(str(name)): self._inside(one) for name, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._inside(one) for one in value]
        return value

    def _take(self, part: str | None) -> str:
        self.append(part)
        return f"\ue000{len(self) - 1}\ue001"
