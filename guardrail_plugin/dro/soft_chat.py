"""A chat model with a soft prompt on the pool: the prompt's vectors become further rows of the model's vocabulary.

A row of the pool is token ids and nothing else. With the L vectors behind the V rows of the input embedding, a soft
prompt is the ids V ... V + L - 1: engines batch it, keep its keys and values and continue conversations behind it like
any text. The output layer keeps its V columns, so these ids are never generated.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.dro.identity import ModelIdentity, require_same, tokenizer_sha256
from guardrail_plugin.dro.soft_prompt import SoftPrompt
from guardrail_plugin.models.chat import ChatSource, LocalChat, stop_ids_of
from guardrail_plugin.models.chat_template import ChatSplice
from guardrail_plugin.models.shared import SharedWeights
from guardrail_plugin.models.torch_replica import TorchReplica
from guardrail_plugin.pool import InferencePool
from guardrail_plugin.pool.protocol import Decode, GenerateRequest, Replica, ScoreRequest, ScoreResult


@dataclass(frozen=True)
class SoftChat(LocalChat):
    """A local chat model with a soft prompt where the system message stands.

    Attributes:
        soft_ids: V ... V + L - 1.
    """

    soft_ids: tuple[int, ...]

    @classmethod
    def register_soft(cls, source: ChatSource, soft: SoftPrompt, *, pool: InferencePool) -> SoftChat:
        """Register a chat model with a soft prompt. Weights load when first used, the prefix is run with them.

        Raises:
            SoftPromptMismatch: the soft prompt belongs to another model.
            ConfigError: the tokenizer has no chat template.
        """
        from transformers import AutoConfig

        template = ChatSplice.of_folder(source.folder)
        config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False).get_text_config()
        identity = ModelIdentity(config.hidden_size, source.name, source.revision, tokenizer_sha256(template.tokenizer))
        require_same(soft.info.identity, identity)
        ids = tuple(range(config.vocab_size, config.vocab_size + len(soft)))
        head = template.row([{"role": "user", "content": "probe"}], soft=True).head
        key = f"{source.key}+soft:{soft.digest}"
        load = partial(_load_with_soft, source, soft.vectors, config.vocab_size)
        pool.register(key, SoftWeights(SharedWeights(load, keep_answers=True), key=key, prefix=(*head, *ids)))
        return cls(key, template, stop_ids_of(source.folder, template), ids)

    def encode(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> tuple[int, ...]:
        """Return the ids of a conversation with the soft prompt in its place."""
        row = self.template.row(messages, soft=True, **options)
        return (*row.head, *self.soft_ids, *row.rest)


@torch.no_grad()
def with_soft_rows(model: Any, vectors: Tensor) -> Any:
    """Put a soft prompt's vectors behind the rows of a model's input embedding, in place; return the model.

    Shapes: vectors (L, d), in the space of the embedding's output.
    """
    table = model.get_input_embeddings()
    scale = getattr(table, "embed_scale", 1.0)  # Gemma 3 multiplies what it looks up
    extended = copy.copy(table)
    extended._parameters = dict(table._parameters)  # the output layer may hold the same ones
    rows = (vectors.to(table.weight.device) / scale).to(table.weight.dtype)
    extended.weight = nn.Parameter(torch.cat([table.weight, rows]), requires_grad=False)  # (V + L, d)
    extended.num_embeddings = len(extended.weight)
    model.set_input_embeddings(extended)
    return model


def _load_with_soft(source: ChatSource, vectors: Tensor, vocab_size: int, *, device: str) -> Any:
    model = source.load(device=device)
    rows = model.get_input_embeddings().num_embeddings
    if rows != vocab_size:
        raise ConfigError(f"{source.key} has {rows} embeddings where its configuration says {vocab_size}")
    return with_soft_rows(model, vectors)


class SoftWeights:
    """Builds replicas that have the soft prompt's prefix ready. See ``SharedWeights``."""

    def __init__(self, weights: SharedWeights, *, key: str, prefix: tuple[int, ...]) -> None:
        self._weights = weights
        self._warm = ScoreRequest(key, (*prefix, prefix[0]), label_ids=(0,), prefix_len=len(prefix))

    def places(self, device: str) -> Sequence[str]:
        """Return where replicas should live; see ``SharedWeights``."""
        return self._weights.places(device)

    def kept_counts(self) -> tuple[int, int, int, int, int]:
        """Return what kept keys and values have saved; see ``SharedWeights``."""
        return self._weights.kept_counts()

    def __call__(self, device: str) -> Replica:
        """Build a replica, in the thread that will use it."""
        replica = self._weights(device)
        return SoftPromptReplica(replica, warm=self._warm) if isinstance(replica, TorchReplica) else replica


class SoftPromptReplica:
    """A replica whose rows all begin with one prefix, the template's head and the soft prompt.

    The prefix's keys and values are computed once per set of weights, and again only after they lay unused so long
    that they were dropped.
    """

    def __init__(self, replica: TorchReplica, *, warm: ScoreRequest) -> None:
        self._replica = replica
        self.nbytes, self.batch_tokens = replica.nbytes, replica.batch_tokens
        self._warm = warm
        self._prefix = warm.input_ids[: warm.prefix_len]

    def score(self, batch: Sequence[ScoreRequest]) -> Sequence[ScoreResult]:
        """Answer every request."""
        self._have_prefix()
        return self._replica.score(batch)

    def start(self, batch: Sequence[GenerateRequest]) -> Decode:
        """Open the batch behind the kept prefix."""
        self._have_prefix()
        return self._replica.start(batch)

    def close(self) -> None:
        """Let go of the weights."""
        self._replica.close()

    def _have_prefix(self) -> None:
        kept = self._replica.kept
        if kept is not None and not kept.covers(self._prefix):
            self._replica.score([self._warm])
