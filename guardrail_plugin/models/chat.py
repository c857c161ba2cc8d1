"""A chat model's folder, with an adapter or without, registered with a pool: what ``PoolChatModel`` stands on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardrail_plugin.core.dtype import Dtype, dtype_named, keyed
from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.models.load import load_causal_lm, load_merged, model_folder, torch_dtype
from guardrail_plugin.models.locate import EMBEDDED_MODEL, locate, pinned
from guardrail_plugin.models.shared import SharedWeights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from guardrail_plugin.models.chat_template import ChatSplice
    from guardrail_plugin.pool import InferencePool

_ADAPTER_FILE = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class ChatSource:
    """Where a chat model's weights come from.

    Attributes:
        key: what it is called on a pool and in traces.
        name: its hub id, with the adapter's hash behind a ``+`` where there is one; ``None``: a folder has no name.
        revision: of the hub repository.
        folder: the model, in Hugging Face layout.
        adapter: a PEFT adapter's folder.
        dtype: the number format of the weights.
    """

    key: str
    name: str | None
    revision: str | None
    folder: Path
    adapter: Path | None = None
    dtype: Dtype = "auto"

    @classmethod
    def find(
        cls,
        model: str | Path | None,
        *,
        revision: str | None = None,
        adapter: Path | None = None,
        offline: bool = False,
        dtype: Dtype = "auto",
    ) -> ChatSource:
        """Find a chat model without loading it.

        Args:
            model: hub id or folder; the embedded model if not given.
            revision: commit, tag or branch of the hub repository.

        Raises:
            ModelNotFoundError: the model is nowhere.
            ConfigError: the adapter's folder holds none; a revision is asked of a folder; there is no such ``dtype``.
            MissingDependencyError: an extra is missing.
        """
        dtype = dtype_named(dtype)
        located = locate(str(model) if model is not None else EMBEDDED_MODEL, revision=revision, offline=offline)
        ending = ""
        if adapter is not None:
            weights = adapter / _ADAPTER_FILE
            if not weights.is_file():
                raise ConfigError(f"{adapter} holds no {_ADAPTER_FILE}")
            ending = f"+{hashlib.sha256(weights.read_bytes()).hexdigest()[:8]}"
        name = None if located.origin == "path" else located.model_id + ending
        key = keyed(f"chat:{pinned(located.model_id, revision)}{ending}", dtype)
        return cls(key, name, located.revision, model_folder(located), adapter, dtype)

    def load(self, *, device: str, dtype: Any = None) -> Any:
        """Return the model in evaluation mode, in torch's ``dtype`` or else this source's own."""
        dtype = dtype or torch_dtype(self.dtype, device)
        if self.adapter is None:
            return load_causal_lm(self.folder, device=device, dtype=dtype)
        return load_merged(self.folder, self.adapter, device=device, dtype=dtype)


@dataclass(frozen=True)
class LocalChat:
    """A local chat model: its key on the pool, its template and the tokens that end its turn."""

    key: str
    template: ChatSplice = field(repr=False)
    stop_ids: frozenset[int]

    @classmethod
    def register(
        cls,
        model: str | Path | None,
        *,
        pool: InferencePool,
        revision: str | None = None,
        adapter: Path | None = None,
        offline: bool = False,
        dtype: Dtype = "auto",
    ) -> LocalChat:
        """Find a chat model, register it with the pool and read its template. Weights load when first used.

        Raises:
            ModelNotFoundError, MissingDependencyError: as of ``ChatSource.find``.
            ConfigError: its tokenizer has no chat template; else as of ``ChatSource.find``.
        """
        from guardrail_plugin.models.chat_template import ChatSplice

        source = ChatSource.find(model, revision=revision, adapter=adapter, offline=offline, dtype=dtype)
        template = ChatSplice.of_folder(source.folder)
        pool.register(source.key, SharedWeights(source.load, keep_answers=True))
        return cls(source.key, template, stop_ids_of(source.folder, template))

    def encode(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> tuple[int, ...]:
        """Return the ids of a conversation, ready for the assistant's turn."""
        return self.template.row(messages, **options).ids


def stop_ids_of(folder: Path, template: ChatSplice) -> frozenset[int]:
    """Return the ids that end the assistant's turn."""
    from transformers import GenerationConfig

    ends = {template.tokenizer.eos_token_id}
    if (folder / "generation_config.json").is_file():
        configured = GenerationConfig.from_pretrained(folder).eos_token_id
        ends |= set(configured) if isinstance(configured, list) else {configured}
    return frozenset(int(end) for end in ends if end is not None)
