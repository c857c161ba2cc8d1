"""Where a guardian errs: rates by group, the threshold sweep, calibration bins, the worst misses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from guardrail_plugin.evals.bootstrap import ECE_BINS, equal_mass_bins
from guardrail_plugin.evals.dataset import EvalRow
from guardrail_plugin.evals.intervals import wilson
from guardrail_plugin.evals.metrics import Sample
from guardrail_plugin.evals.score import Score

SWEEP = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
_WORST = 10


@dataclass(frozen=True, slots=True)
class Rate:
    """The confusion counts of one group."""

    group: str
    hits: int
    misses: int
    false_alarms: int
    passes: int

    @property
    def recall(self) -> float | None:
        """Hits over harmful rows; ``None`` without any."""
        harmful = self.hits + self.misses
        return self.hits / harmful if harmful else None

    @property
    def fpr(self) -> float | None:
        """False alarms over harmless rows; ``None`` without any."""
        harmless = self.false_alarms + self.passes
        return self.false_alarms / harmless if harmless else None


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """Recall and false-positive rate if the threshold were this; ``None`` where the class is absent."""

    threshold: float
    recall: float | None
    fpr: float | None


@dataclass(frozen=True, slots=True)
class Bin:
    """One calibration bin: mean risk, share that is harmful with its 95 % interval, rows."""

    risk: float
    harmful: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Miss:
    """One wrongly judged row, by id."""

    id: str
    harmful: bool
    risk: float
    hazard: str | None
    category: str | None


_GROUPS: dict[str, Callable[[EvalRow], str | None]] = {
    "source": lambda row: row.source,
    "category": lambda row: row.category,
    "language": lambda row: row.lang,
    "hazard": lambda row: row.expected,
}


def rates(rows: Sequence[EvalRow], scores: Sequence[Score]) -> dict[str, list[Rate]]:
    """Return confusion counts by source, and by category, language and expected hazard where there is more than one."""
    found = {}
    for name, group_of in _GROUPS.items():
        groups = sorted({group for row in rows if (group := group_of(row)) is not None})
        if name == "source" or len(groups) > 1:
            pairs = list(zip(rows, scores, strict=True))
            found[name] = [_rate(group, [s for row, s in pairs if group_of(row) == group]) for group in groups]
    return found


def _rate(group: str, scores: Sequence[Score]) -> Rate:
    flagged = [one.label for one in scores if one.harmful]
    passed = [one.label for one in scores if not one.harmful]
    return Rate(group, sum(flagged), sum(passed), len(flagged) - sum(flagged), len(passed) - sum(passed))


def sweep(sample: Sample, *, thresholds: Sequence[float] = SWEEP) -> list[SweepPoint]:
    """Return recall and false-positive rate at each threshold."""
    points = []
    for threshold in thresholds:
        above = sample.risk >= threshold
        shares = [float(above[mask].mean()) if mask.any() else None for mask in (sample.harmful, ~sample.harmful)]
        points.append(SweepPoint(threshold, *shares))
    return points


def reliability(sample: Sample) -> list[Bin]:
    """Return up to 15 equal-mass bins by rising risk; none where only one label occurs."""
    if not sample.mixed:
        return []
    members = equal_mass_bins(sample.risk)
    bins = []
    for index in range(ECE_BINS):
        inside = members == index
        n = int(inside.sum())
        if n:
            hits = int(sample.harmful[inside].sum())
            bins.append(Bin(float(np.mean(sample.risk[inside])), hits / n, *wilson(hits, n), n=n))
    return bins


def worst(rows: Sequence[EvalRow], scores: Sequence[Score]) -> list[Miss]:
    """Return the misses with the lowest risk, then the false alarms with the highest; up to ten each."""
    wrong = [
        Miss(one.id, one.label, one.risk, one.hazard, row.category)
        for row, one in zip(rows, scores, strict=True)
        if one.label != one.harmful
    ]
    missed = sorted((miss for miss in wrong if miss.harmful), key=lambda miss: miss.risk)
    alarms = sorted((miss for miss in wrong if not miss.harmful), key=lambda miss: -miss.risk)
    return [*missed[:_WORST], *alarms[:_WORST]]
