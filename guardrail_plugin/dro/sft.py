"""Teach a low-rank adapter to give certain answers: the training loop of a half-aligned model."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from guardrail_plugin.dro.config import AlignConfig


@dataclass(frozen=True, slots=True)
class Example:
    """What is read and what is learned, as ids. ``repr`` shows none.

    Shapes: prompt (P,), answer (A,).
    """

    prompt: tuple[int, ...] = field(repr=False)
    answer: tuple[int, ...] = field(repr=False)


def teach(
    peft: Any,
    examples: Sequence[Example],
    *,
    config: AlignConfig,
    quiet: bool,
) -> Iterator[float]:
    """Train the parameters that take a gradient; yield the loss of each step.

    AdamW, warmed up over a tenth of the steps, then down to nothing in a straight line.
    """
    parameters = [p for p in peft.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0)
    batches = _batches(examples, config)
    warm = max(1, len(batches) // 10)
    peft.train()
    for step, batch in enumerate(tqdm(batches, desc="Training", unit="step", disable=quiet or None)):
        share = (step + 1) / warm if step < warm else 1 - (step - warm) / max(1, len(batches) - warm)
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * share
        loss = _answer_loss(peft.get_base_model(), batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        yield loss.item()
    peft.eval()


def _batches(examples: Sequence[Example], config: AlignConfig) -> list[list[Example]]:
    """Batches of rows of similar length, in random order: less padding."""
    made: list[list[Example]] = []
    for epoch in range(config.epochs):
        rng = random.Random(f"order:{config.seed}:{epoch}")
        near = sorted(examples, key=lambda one: len(one.prompt) + len(one.answer) + rng.random() * 20)
        groups = [near[i : i + config.batch_size] for i in range(0, len(near), config.batch_size)]
        rng.shuffle(groups)
        made += groups
    return made


def _answer_loss(model: Any, batch: Sequence[Example]) -> Tensor:
    """Return the mean -log p over the answers' tokens; only their columns of logits are made."""
    longest = max(len(one.prompt) + len(one.answer) for one in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)  # (B, T), padded on the right
    mask = torch.zeros_like(ids)
    rows: list[int] = []
    places: list[int] = []
    targets: list[int] = []
    for i, one in enumerate(batch):
        whole = (*one.prompt, *one.answer)
        ids[i, : len(whole)] = torch.tensor(whole)
        mask[i, : len(whole)] = 1
        # The token at position t is foretold at t - 1.
        rows += [i] * len(one.answer)
        places += range(len(one.prompt) - 1, len(whole) - 1)
        targets += one.answer
    device = model.get_input_embeddings().weight.device
    hidden = model.get_decoder()(
        input_ids=ids.to(device), attention_mask=mask.to(device)
    ).last_hidden_state  # (B, T, d)
    logits = model.get_output_embeddings()(hidden[torch.tensor(rows), torch.tensor(places)])  # (N, V)
    return F.cross_entropy(logits.float(), torch.tensor(targets, device=device))
