"""The base model with LoRA adapters and trainable token rows, and the two read-outs that training needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from guardrail_plugin.core.hazards import MLCOMMONS
from guardrail_plugin.guardian.format import Layout
from guardrail_plugin.guardian.tokenizer import ContentTokenizer
from guardrail_plugin.training.config import TrainConfig
from guardrail_plugin.training.encode import Encoded

# What heads do to the products of states and output rows: they scale them, then cap them. Source: ``forward`` of the
# models in transformers 5. Cohere, Falcon-H1 and Muse multiply; Gemma 2 and what came of it, and RecurrentGemma, cap.
_FACTORS = ("logit_scale", "lm_head_multiplier", "output_multiplier")
_CAPS = ("final_logit_softcapping", "logits_soft_cap")

_DESCRIPTIONS = {
    "input": "user request",
    "output": "assistant answer",
    "tool_call": "tool call",
    "tool_output": "document",
    "turn": "\n",
    "verdict": "verdict:",
    "respond": "assistant",
    "safe": "safe harmless",
}


class GuardianNetwork(nn.Module):
    """A causal language model with LoRA on every linear layer and one trained row per added token.

    The rows live in peft's trainable-token layer, which also feeds a tied output embedding; an output embedding of its
    own gets rows of its own. So the artefact is a plain PEFT adapter, and all that verdicts are read from is in it.
    """

    def __init__(self, base: Any, layout: Layout, tokenizer: ContentTokenizer, *, config: TrainConfig) -> None:
        from peft import LoraConfig, get_peft_model

        super().__init__()
        self.layout = layout
        added = len(layout.token_names)
        base.resize_token_embeddings(layout.vocab_size + added, mean_resizing=False)
        tables = _tables(base)
        for table in tables.values():
            _initialise_rows(table.weight, layout, tokenizer)
        rows = list(range(layout.vocab_size, layout.vocab_size + added))
        lora = LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules="all-linear",
            trainable_token_indices=rows if len(tables) == 1 else dict.fromkeys(tables, rows),
            task_type="CAUSAL_LM",
        )
        self.peft = get_peft_model(base, lora)
        self.body: Any = self.peft.get_base_model().model
        self.head: Any = self.peft.get_base_model().lm_head
        self.text_config: Any = base.config.get_text_config()
        self.label_ids: Tensor
        self.register_buffer("label_ids", torch.tensor(layout.label_ids), persistent=False)

    def forward(self, batch: Sequence[Encoded]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return label logits (B, K), labels (B,), response logits (R, V) and response targets (R,).

        The logits are the model's own, scaled and capped as its head does it: verdicts are read from those.
        Right padding under a causal mask: no real position can see a padded one, so no attention mask is needed.
        """
        device = self.label_ids.device
        longest = max(len(row.ids) for row in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)  # (B, L)
        for i, row in enumerate(batch):
            ids[i, : len(row.ids)] = torch.tensor(row.ids)
        ids = ids.to(device)
        hidden = self.body(input_ids=ids, use_cache=False).last_hidden_state  # (B, L, d)
        at = torch.tensor([row.verdict_at for row in batch], device=device)
        verdict = hidden[torch.arange(len(batch), device=device), at]  # (B, d)
        weight = self._output_rows()  # (V, d)
        label_logits = _as_returned(verdict @ weight[self.label_ids].T, self.text_config)  # (B, K)
        labels = torch.tensor([row.label for row in batch], device=device)
        where = [(i, t) for i, row in enumerate(batch) for t in range(row.response_from, len(row.ids) - 1)]
        rows = torch.tensor([i for i, _ in where], dtype=torch.long, device=device)
        cols = torch.tensor([t for _, t in where], dtype=torch.long, device=device)
        response_logits = _as_returned(hidden[rows, cols] @ weight.T, self.text_config)  # (R, V)
        return label_logits, labels, response_logits, ids[rows, cols + 1]

    def _output_rows(self) -> Tensor:
        """The output embedding (V, d) with the trained rows in place."""
        layer = self.head
        if hasattr(layer, "token_adapter"):
            layer = layer.token_adapter
        weight: Tensor = layer.get_merged_weights(["default"]) if hasattr(layer, "get_merged_weights") else layer.weight
        return weight

    def parameter_groups(self, config: TrainConfig) -> list[dict[str, Any]]:
        """Adapters at ``learning_rate`` with decay, token rows at ``token_learning_rate`` without."""
        trained = [(n, p) for n, p in self.named_parameters() if p.requires_grad]
        rows = [p for n, p in trained if "trainable_tokens" in n]
        adapters = [p for n, p in trained if "trainable_tokens" not in n]
        return [
            {"params": adapters, "lr": config.learning_rate, "weight_decay": config.weight_decay},
            {"params": rows, "lr": config.token_learning_rate, "weight_decay": 0.0},
        ]


def _as_returned(products: Tensor, text_config: Any) -> Tensor:
    """Return the logits that a model makes of products of states and output rows (N, K)."""
    for name in _FACTORS:
        factor = getattr(text_config, name, None)
        if factor is not None:
            products = products * factor
    scaling = getattr(text_config, "logits_scaling", None)
    if scaling is not None:  # HyperCLOVA X multiplies by what Granite and MiniCPM3 divide by
        products = products * scaling if text_config.model_type == "hyperclovax" else products / scaling
    for name in _CAPS:
        cap = getattr(text_config, name, None)
        if cap is not None:
            products = torch.tanh(products / cap) * cap
    return products


def _tables(base: Any) -> dict[str, Any]:
    """Return the input embedding and, where it has a matrix of its own, the output embedding, by name."""
    reads, writes = base.get_input_embeddings(), base.get_output_embeddings()
    own = (reads,) if writes.weight is reads.weight else (reads, writes)
    return {name: module for name, module in base.named_modules() if any(module is one for one in own)}


@torch.no_grad()
def _initialise_rows(weight: Tensor, layout: Layout, tokenizer: ContentTokenizer) -> None:
    """Start each added row at the mean embedding of words that describe it."""
    for i, name in enumerate(layout.token_names):
        words = _DESCRIPTIONS.get(name) or MLCOMMONS[name].name if name in MLCOMMONS or name in _DESCRIPTIONS else name
        weight[layout.vocab_size + i] = weight[torch.tensor(tokenizer.encode(words))].mean(0)
