"""The training loop of a soft prompt: AdamW on one tensor, deterministic, resumable."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from guardrail_plugin.dro.config import Config
from guardrail_plugin.dro.writing import writing

LossOf: TypeAlias = Callable[[Tensor, Sequence[int]], tuple[Tensor, Mapping[str, float]]]
"""(soft (L, d), indices of examples) → (mean loss over them, figures for the curves)."""

Weigh: TypeAlias = Callable[[Sequence[int]], float]
"""Indices of examples → what their mean loss counts against that of others."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a loop ends with.

    Attributes:
        vectors: (L, d) in float32; the best of the validated ones where there is a validation split.
        history: per step, the loss and its terms; ``validation`` at the end of an epoch.
        steps: optimiser steps taken.
        stopped_early: the validation loss rose for ``patience`` epochs.
    """

    vectors: Tensor = field(repr=False)
    history: tuple[dict[str, float], ...] = field(repr=False)
    steps: int
    stopped_early: bool


def optimise(
    initial: Tensor,
    loss_of: LossOf,
    examples: int,
    *,
    config: Config,
    checkpoint: Path | None = None,
    fingerprint: str = "",
    weigh: Weigh = len,
    quiet: bool = False,
) -> Trained:
    """Train a soft prompt from its initial vectors.

    A checkpoint of the same run (config, initial vectors and fingerprint) is resumed and gives the same result as a
    run that was never stopped; another run's is ignored and overwritten. It is removed at the end.

    ``weigh`` says how parts of a batch add up to the whole where the loss is a mean over something else than examples.

    Shapes: initial (L, d).

    Raises:
        ConfigError: the checkpoint cannot be written.
    """
    training, validation = _split(examples, config)
    run = _Run(initial, config, _digest(initial, config, fingerprint), weigh)
    if checkpoint is not None:
        run.resume(checkpoint)
    per_epoch = -(-len(training) // config.batch_size)
    total = per_epoch * config.epochs
    with tqdm(total=total, initial=run.step, desc="Training", unit="step", disable=quiet or None) as bar:
        for step, batch, ends_epoch in _schedule(training, config):
            if step < run.step:
                continue
            if run.waited >= config.patience and validation:
                break
            figures = run.advance(batch, loss_of)
            if ends_epoch and validation:
                figures |= run.validate(validation, loss_of)
            run.history.append(figures)
            bar.update()
            bar.set_postfix(loss=f"{figures['loss']:.4f}")
            if checkpoint is not None and run.step % config.checkpoint_every == 0:
                run.save(checkpoint)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    vectors = run.best if validation else run.soft.detach().clone()
    stopped = bool(validation) and run.waited >= config.patience
    return Trained(vectors.cpu(), tuple(run.history), run.step, stopped)


def _split(examples: int, config: Config) -> tuple[list[int], list[int]]:
    order = list(range(examples))
    random.Random(f"split:{config.seed}").shuffle(order)
    held_out = round(examples * config.validation_fraction)
    return sorted(order[held_out:]), sorted(order[:held_out])


def _schedule(training: Sequence[int], config: Config) -> Iterator[tuple[int, list[int], bool]]:
    """Yield (step, indices, whether the epoch ends): a function of the seed alone."""
    step = 0
    for epoch in range(config.epochs):
        order = list(training)
        random.Random(f"order:{config.seed}:{epoch}").shuffle(order)
        for start in range(0, len(order), config.batch_size):
            yield step, order[start : start + config.batch_size], start + config.batch_size >= len(order)
            step += 1


def _parts(batch: Sequence[int], count: int) -> list[Sequence[int]]:
    size = -(-len(batch) // count)
    return [batch[i : i + size] for i in range(0, len(batch), size)]


def _digest(initial: Tensor, config: Config, fingerprint: str) -> str:
    said = json.dumps([config.model_dump(mode="json", exclude={"checkpoint_every"}), fingerprint])
    return hashlib.sha256(said.encode() + initial.detach().cpu().numpy().tobytes()).hexdigest()


class _Run:
    """The state that a checkpoint holds."""

    def __init__(self, initial: Tensor, config: Config, digest: str, weigh: Weigh) -> None:
        self.soft = initial.detach().float().clone().requires_grad_()  # (L, d)
        self.best = self.soft.detach().clone()
        self.best_loss = float("inf")
        self.waited = 0
        self.step = 0
        self.history: list[dict[str, float]] = []
        self._config = config
        self._digest = digest
        self._weigh = weigh
        self._optimiser = torch.optim.AdamW([self.soft], lr=config.learning_rate, weight_decay=config.weight_decay)

    def advance(self, batch: Sequence[int], loss_of: LossOf) -> dict[str, float]:
        """Take one step; parts of a batch are weighted by their size, so the gradient is that of the whole."""
        figures: dict[str, float] = {}
        for part in _parts(batch, self._config.accumulation):
            loss, terms = loss_of(self.soft, part)
            weight = self._weigh(part) / self._weigh(batch)
            (loss * weight).backward()
            for name, value in terms.items():
                figures[name] = figures.get(name, 0.0) + weight * value
        torch.nn.utils.clip_grad_norm_([self.soft], self._config.clip_norm)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return figures

    @torch.no_grad()
    def validate(self, examples: Sequence[int], loss_of: LossOf) -> dict[str, float]:
        """Keep the prompt if it is the best so far."""
        loss = 0.0
        for start in range(0, len(examples), self._config.batch_size):
            batch = examples[start : start + self._config.batch_size]
            loss += float(loss_of(self.soft, batch)[0]) * self._weigh(batch) / self._weigh(examples)
        if loss < self.best_loss:
            self.best_loss, self.best, self.waited = loss, self.soft.detach().clone(), 0
        else:
            self.waited += 1
        return {"validation": loss}

    def save(self, path: Path) -> None:
        """Write a checkpoint; moved into place, so that a kill leaves the last one whole."""
        state = self._optimiser.state[self.soft]
        tensors = {"soft": self.soft.detach(), "best": self.best}
        tensors |= {key: state[key] for key in ("exp_avg", "exp_avg_sq", "step")}
        described = {"best_loss": self.best_loss, "waited": self.waited, "step": self.step, "history": self.history}
        part = path.with_name(path.name + ".part")
        metadata = {"digest": self._digest, "state": json.dumps(described)}
        with writing(path):
            save_file({key: value.cpu().contiguous() for key, value in tensors.items()}, part, metadata)
            part.replace(path)

    def resume(self, path: Path) -> None:
        """Take over a checkpoint of this very run, if there is one."""
        if not path.is_file():
            return
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("digest") != self._digest:
            return
        tensors = load_file(path, device=str(self.soft.device))
        self.soft.data.copy_(tensors["soft"])
        self.best = tensors["best"]
        self._optimiser.state[self.soft] = {
            "step": tensors["step"].cpu(),
            "exp_avg": tensors["exp_avg"],
            "exp_avg_sq": tensors["exp_avg_sq"],
        }
        described = json.loads(metadata["state"])
        self.best_loss, self.waited = described["best_loss"], described["waited"]
        self.step, self.history = described["step"], described["history"]
