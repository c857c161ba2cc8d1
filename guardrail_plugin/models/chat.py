"""A chat model's folder registered with a pool: what ``PoolChatModel`` stands on."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardrail_plugin.models.load import load_causal_lm, model_folder
from guardrail_plugin.models.locate import EMBEDDED_MODEL, locate
from guardrail_plugin.models.shared import shared_factory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from guardrail_plugin.models.chat_template import ChatTemplate
    from guardrail_plugin.pool import InferencePool


@dataclass(frozen=True)
class LocalChat:
    """A local chat model: its key on the pool, its template and the tokens that end its turn."""

    key: str
    template: ChatTemplate = field(repr=False)
    stop_ids: frozenset[int]

    @classmethod
    def register(cls, model: str | Path | None, *, pool: InferencePool, offline: bool = False) -> LocalChat:
        """Find a chat model, register it with the pool and read its template. Weights load when first used.

        Raises:
            ModelNotFoundError: the model is nowhere.
            ConfigError: its tokenizer has no chat template.
            MissingDependencyError: an extra is missing.
        """
        from guardrail_plugin.models.chat_template import ChatTemplate

        located = locate(str(model) if model is not None else EMBEDDED_MODEL, offline=offline)
        folder = model_folder(located)
        template = ChatTemplate(folder)
        key = f"chat:{located.model_id}"
        pool.register(key, shared_factory(partial(load_causal_lm, folder)))
        return cls(key, template, _stop_ids(folder, template))

    def encode(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> tuple[int, ...]:
        """Return the ids of a conversation, ready for the assistant's turn."""
        return tuple(self.template.encode(messages, **options))


def _stop_ids(folder: Path, template: ChatTemplate) -> frozenset[int]:
    from transformers import GenerationConfig

    ends = {template.tokenizer.eos_token_id}
    if (folder / "generation_config.json").is_file():
        configured = GenerationConfig.from_pretrained(folder).eos_token_id
        ends |= set(configured) if isinstance(configured, list) else {configured}
    return frozenset(int(end) for end in ends if end is not None)
