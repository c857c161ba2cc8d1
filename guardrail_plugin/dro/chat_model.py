"""A LangChain chat model with a soft prompt, on the shared pool beside the guardian."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, InstanceOf

from guardrail_plugin.dro.soft_chat import SoftChat
from guardrail_plugin.dro.soft_prompt import SoftPrompt
from guardrail_plugin.models.chat import ChatSource
from guardrail_plugin.pool import InferencePool
from guardrail_plugin.runnables.chat_model import PoolChatModel


class SoftPromptChatModel(PoolChatModel):
    """A local Hugging Face chat model with a soft prompt where its system message stands.

        chat = SoftPromptChatModel(model="...", soft_prompt="mistral.soft.safetensors", pool=pool)
        safe = guard(prompt | chat, guardian=guardian)

    System messages of a conversation stand behind the soft prompt. All that ``PoolChatModel`` does, this does.

    Attributes:
        soft_prompt: the file, or a loaded ``SoftPrompt``.

    Raises (at construction):
        SoftPromptMismatch: it belongs to another model, adapter, width or tokenizer.
        ConfigError: the file is no soft prompt, or does not say which model it belongs to.
    """

    soft_prompt: Path | InstanceOf[SoftPrompt] = Field(repr=False)

    def __init__(
        self,
        *,
        model: str | Path | None = None,
        soft_prompt: str | Path | SoftPrompt,
        pool: InferencePool,
        **settings: Any,
    ) -> None:
        placed = Path(soft_prompt) if isinstance(soft_prompt, str) else soft_prompt
        super().__init__(model=model, pool=pool, soft_prompt=placed, **settings)

    @property
    def _llm_type(self) -> str:
        return "guardrail-soft-prompt"

    def _register(self) -> SoftChat:
        soft = self.soft_prompt if isinstance(self.soft_prompt, SoftPrompt) else SoftPrompt.load(self.soft_prompt)
        source = ChatSource.find(self.model, revision=self.revision, adapter=self.adapter, dtype=self.dtype)
        return SoftChat.register_soft(source, soft, pool=self.pool)
