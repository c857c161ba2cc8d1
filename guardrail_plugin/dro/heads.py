"""The two linear heads on the anchor's coordinates: one reads refusal, one reads harmfulness."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from guardrail_plugin.dro.config import AnchorConfig


@dataclass(frozen=True, slots=True)
class Head:
    """A linear head; its weight is a direction in the anchor's coordinates.

    Attributes:
        weight: (m,).
        bias: ().
        accuracy: cross-validated share of rows on the right side of 0; whole queries are held out.
        majority: accuracy of always saying the more frequent side, to compare with.
    """

    weight: Tensor = field(repr=False)
    bias: Tensor = field(repr=False)
    accuracy: float
    majority: float

    def logit(self, coordinates: Tensor) -> Tensor:
        """Return the head's logit. Shapes: (..., m) → (...)."""
        return coordinates @ self.weight.to(coordinates) + self.bias.to(coordinates)


def fold_of_query(harmful: Tensor, config: AnchorConfig) -> Tensor:
    """Assign each query a fold, harmful and harmless ones spread evenly.

    Shapes: harmful (Q,) boolean → (Q,).
    """
    generator = torch.Generator().manual_seed(config.seed)
    folds = torch.zeros(len(harmful), dtype=torch.long)
    for label in (True, False):
        members = torch.nonzero(harmful == label).flatten()
        shuffled = members[torch.randperm(len(members), generator=generator)]
        folds[shuffled] = torch.arange(len(members)) % config.folds
    return folds


def fit_head(coordinates: Tensor, targets: Tensor, folds: Tensor, *, config: AnchorConfig) -> Head:
    """Fit one head per fold by binary cross entropy and average them.

    The folds are independent problems under an elementwise optimiser, so they are run side by side.

    Shapes: coordinates (N, m), targets (N,) in 0..1, folds (N,).
    """
    held_out = folds == torch.arange(config.folds)[:, None]  # (F, N)
    targets = targets.expand(config.folds, -1)  # (F, N)
    weight = torch.zeros(config.folds, coordinates.shape[1], requires_grad=True)  # (F, m)
    bias = torch.zeros(config.folds, 1, requires_grad=True)
    optimiser = torch.optim.AdamW([weight, bias], lr=config.learning_rate)
    best_loss = torch.full((config.folds,), torch.inf)
    best_weight, best_bias = weight.detach().clone(), bias.detach().clone()
    waited = torch.zeros(config.folds, dtype=torch.long)
    for _ in range(config.max_epochs):
        losses = F.binary_cross_entropy_with_logits(weight @ coordinates.T + bias, targets, reduction="none")  # (F, N)
        validation = _mean(losses.detach(), held_out)
        better = (validation < best_loss) & (waited < config.patience)
        best_loss = torch.where(better, validation, best_loss)
        best_weight[better], best_bias[better] = weight.detach()[better], bias.detach()[better]
        waited = torch.where(better, 0, waited + 1)
        if bool((waited >= config.patience).all()):
            break
        optimiser.zero_grad()
        _mean(losses, ~held_out).sum().backward()
        optimiser.step()
    logits = best_weight @ coordinates.T + best_bias  # (F, N)
    right = ((logits > 0) == (targets > 0.5))[held_out].float()  # (N,): each row by the head that did not see it
    positive = float((targets[0] > 0.5).float().mean())
    return Head(best_weight.mean(0), best_bias.mean(), float(right.mean()), max(positive, 1 - positive))


def _mean(losses: Tensor, kept: Tensor) -> Tensor:
    """Mean over the kept entries of each row: (F, N), (F, N) → (F,)."""
    return (losses * kept).sum(1) / kept.sum(1).clamp(min=1)
