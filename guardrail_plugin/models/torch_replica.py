"""The local replica: one transformers causal language model on one device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.models.torch_decode import TorchDecode
from guardrail_plugin.pool.protocol import Decode, GenerateRequest, ScoreRequest, ScoreResult

# Architectures whose logits are exactly hidden @ output_embedding.T: for them only the label columns are computed.
# Others scale or cap their logits (Gemma 2, Granite, Cohere), so their own head is asked.
_PLAIN_HEADS = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3", "phi3", "gemma"})


class TorchReplica:
    """Scores and decodes with a causal language model. Used by one thread at a time.

    Attributes:
        first_suppressed: ids from here on are never generated (a guardian's control tokens); ``None``: no limit.
    """

    def __init__(self, *, model: Any, device: str, first_suppressed: int | None = None, pad_id: int = 0) -> None:
        self._model = model
        self._device = torch.device(device)
        self.first_suppressed = first_suppressed
        self._pad_id = pad_id
        self._plain_head = model.config.model_type in _PLAIN_HEADS
        if getattr(model.config, "is_encoder_decoder", False):
            raise ConfigError("a replica needs a decoder-only language model")

    @torch.inference_mode()
    def score(self, batch: Sequence[ScoreRequest]) -> list[ScoreResult]:
        """Answer every request with log-probabilities over its label tokens.

        Right padding under a causal mask: no real token can see a padded one, so no attention mask is needed.
        """
        lengths = [len(request.input_ids) for request in batch]
        ids = torch.full((len(batch), max(lengths)), self._pad_id, dtype=torch.long)  # (B, L)
        for row, request in enumerate(batch):
            ids[row, : lengths[row]] = torch.tensor(request.input_ids)
        last = torch.tensor(lengths) - 1  # (B,)
        logits = self._label_logits(ids.to(self._device), last.to(self._device), [r.label_ids for r in batch])
        return [ScoreResult(tuple(row.log_softmax(-1).tolist())) for row in logits]

    def start(self, batch: Sequence[GenerateRequest]) -> Decode:
        """Prefill the batch and return its step-wise decode."""
        return TorchDecode(
            self._model, batch, device=self._device, first_suppressed=self.first_suppressed, pad_id=self._pad_id
        )

    def close(self) -> None:
        """Drop the weights. Other replicas that share them keep theirs."""
        self._model = None

    def _label_logits(self, ids: Tensor, last: Tensor, labels: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Return per row the logits of its label tokens: B tensors (K,) in float32."""
        rows = torch.arange(len(ids), device=ids.device)
        if self._plain_head:
            hidden = self._model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state  # (B, L, d)
            final = hidden[rows, last]  # (B, d)
            weight = self._model.get_output_embeddings().weight  # (V, d)
            if all(row == labels[0] for row in labels):
                at = torch.tensor(labels[0], device=ids.device)
                return list((final @ weight[at].T).float())
            return [(final[i] @ weight[torch.tensor(row, device=ids.device)].T).float() for i, row in enumerate(labels)]
        keep, where = torch.unique(last, return_inverse=True)
        full = self._model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits  # (B, U, V)
        return [full[i, where[i], torch.tensor(row, device=ids.device)].float() for i, row in enumerate(labels)]
