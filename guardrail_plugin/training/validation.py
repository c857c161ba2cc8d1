"""What the held-out rows say: loss, F1, AUROC, and the temperature that makes risk a probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from guardrail_plugin.core.verdict import RAILS, Rail
from guardrail_plugin.guardian.manifest import Calibration
from guardrail_plugin.training.config import TrainConfig
from guardrail_plugin.training.encode import Encoded
from guardrail_plugin.training.network import GuardianNetwork
from guardrail_plugin.training.rows import Example

_FEWEST_PER_LABEL = 20  # a handful of rows that are told apart by chance would make every risk twice as sure


@dataclass(frozen=True, slots=True)
class Validation:
    """Figures on the validation split, per rail where it has both labels."""

    rows: int
    f1: dict[str, float] = field(default_factory=dict)
    auroc: dict[str, float] = field(default_factory=dict)
    recall_by_source: dict[str, float] = field(default_factory=dict)
    false_positives_by_source: dict[str, float] = field(default_factory=dict)
    calibration: dict[Rail, Calibration] = field(default_factory=dict)


@torch.no_grad()
def risk_log_odds(network: GuardianNetwork, rows: Sequence[Encoded], *, batch_tokens: int) -> Tensor:
    """Return log P(harmful) - log P(safe) per row, in the order of rows: (N,)."""
    network.eval()
    out = torch.zeros(len(rows))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    while order:
        take = max(1, min(len(order), batch_tokens // max(1, len(rows[order[min(len(order) - 1, 31)]].ids))))
        chosen, order = order[:take], order[take:]
        label_logits = network([rows[i] for i in chosen])[0].float().cpu()  # (B, K), safe first
        out[chosen] = label_logits[:, 1:].logsumexp(-1) - label_logits[:, 0]
    return out


def validate(
    network: GuardianNetwork,
    rows: Sequence[Encoded],
    examples: Sequence[Example],
    *,
    config: TrainConfig,
    began: Mapping[Rail, Calibration] | None = None,
) -> Validation:
    """Score the validation split and fit a temperature per rail.

    Thresholds stay those that a rail ``began`` with: of the guardian that the run went on from, else 0.5. So does the
    temperature where there are fewer than 20 rows of a label.
    """
    kept = dict(began or {})
    if not rows:
        return Validation(0, calibration=kept)
    scores = risk_log_odds(network, rows, batch_tokens=config.batch_tokens)
    harmful = torch.tensor([e.harmful for e in examples])
    result = Validation(len(rows), calibration=kept)
    for rail in RAILS:
        mask = torch.tensor([e.rail == rail for e in examples])
        s, y = scores[mask], harmful[mask]
        if y.any() and not y.all():
            few = min(int(y.sum()), int((~y).sum())) < _FEWEST_PER_LABEL
            before = kept.get(rail, Calibration())
            fitted = before if few else fit_temperature(s, y).model_copy(update={"threshold": before.threshold})
            result.calibration[rail] = fitted
            result.f1[rail] = _f1(s > 0, y)
            result.auroc[rail] = _auroc(s, y)
    for source in sorted({e.source for e in examples}):
        mask = torch.tensor([e.source == source for e in examples])
        s, y = scores[mask] > 0, harmful[mask]
        if y.any():
            result.recall_by_source[source] = float(s[y].float().mean())
        if not y.all():
            result.false_positives_by_source[source] = float(s[~y].float().mean())
    return result


def fit_temperature(log_odds: Tensor, harmful: Tensor) -> Calibration:
    """Fit the temperature by maximum likelihood (arXiv 1706.04599), within [0.5, 5].

    Shapes: log_odds (N,), harmful (N,) boolean.
    """
    grid = torch.logspace(-0.30103, 0.69897, 91)  # 0.5 .. 5
    losses = [F.binary_cross_entropy_with_logits(log_odds / t, harmful.float()) for t in grid]
    return Calibration(temperature=round(float(grid[int(torch.stack(losses).argmin())]), 3))


def _f1(predicted: Tensor, harmful: Tensor) -> float:
    hits = float((predicted & harmful).sum())
    return 2 * hits / max(1.0, float(predicted.sum() + harmful.sum()))


def _auroc(scores: Tensor, harmful: Tensor) -> float:
    """Probability that a harmful row scores above a harmless one; ties count half."""
    gap = scores[harmful][:, None] - scores[~harmful][None, :]
    return float(((gap > 0).float() + 0.5 * (gap == 0).float()).mean())
