"""Chat messages → token ids, through the model's own chat template, with contents that cannot become control tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.models.load import import_torch

# Private-use characters that no template contains; the number says whose content stands there.
_SLOT = re.compile("\ue000([0-9]+)\ue001")


class ChatTemplate:
    """Renders a model's chat template and tokenises template and contents apart.

    The template is rendered with placeholders for the contents. What lies between placeholders is tokenised with
    special tokens recognised, the contents with special tokens split into plain characters, so that a message that
    says ``<|im_end|>`` cannot close its own turn.

    Raises:
        ConfigError: the folder's tokenizer has no chat template, or the template loses or repeats a content.
    """

    def __init__(self, folder: Path) -> None:
        import_torch()
        from transformers import AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        if not self.tokenizer.chat_template:
            raise ConfigError(f"the tokenizer in {folder} has no chat template")
        self._plain: Any = self.tokenizer.backend_tokenizer

    def encode(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        """Return the ids of a conversation, ready for the assistant's turn: (L,).

        Args:
            messages: ``{"role", "content"}`` dicts, contents as plain text.
            options: passed to the template (``tools`` for example).
        """
        contents = [str(message["content"]) for message in messages]
        slotted = [{**message, "content": f"\ue000{i}\ue001"} for i, message in enumerate(messages)]
        rendered: str = self.tokenizer.apply_chat_template(
            slotted, tokenize=False, add_generation_prompt=True, **options
        )
        pieces = _SLOT.split(rendered)  # template, number, template, number, ..., template
        if sorted(int(number) for number in pieces[1::2]) != list(range(len(contents))):
            raise ConfigError("the chat template drops or repeats a message's content")
        ids: list[int] = []
        for i, piece in enumerate(pieces):
            ids += self._content(contents[int(piece)]) if i % 2 else self._template(piece)
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of generated ids without special tokens."""
        text: str = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        return text

    def _template(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _content(self, text: str) -> list[int]:
        clean = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        ids: list[int] = self.tokenizer.encode(clean, add_special_tokens=False, split_special_tokens=True)
        return ids
