"""Figures of one set of scored rows: value, 95 % interval, and the number of rows behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from guardrail_plugin.core.errors import MissingDependencyError
from guardrail_plugin.evals.bootstrap import RECALL_AT, Bools, Floats, Ints, Prepared, interval, resamples, statistics
from guardrail_plugin.evals.intervals import wilson
from guardrail_plugin.evals.score import Score

RESAMPLES = 1000
SEED = 0

METRICS: dict[str, str] = {
    "f1": "F1",
    "precision": "Precision",
    "recall": "Recall",
    "auprc": "AUPRC",
    "auroc": "AUROC",
    "fpr": "FPR",
    "recall_at_fpr_1": "Recall at 1 % FPR",
    "recall_at_fpr_5": "Recall at 5 % FPR",
    "hazard_accuracy": "Hazard accuracy",
    "ece": "ECE",
    "seconds_per_text": "Seconds per text",
}
LOWER_IS_BETTER = frozenset({"fpr", "ece", "seconds_per_text"})


@dataclass(frozen=True, slots=True)
class Figure:
    """One number. A metric that does not exist for these rows is ``None``, never 0.

    Attributes:
        low, high: the 95 % interval: Wilson's for recall, FPR and hazard accuracy, the stratified bootstrap's
            for the others; ``None`` where there is none.
        n: rows behind the value.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0


_ABSENT = Figure(None)


@dataclass(frozen=True, slots=True)
class Sample:
    """Scored rows as arrays. Shapes: all (N,)."""

    harmful: Bools
    predicted: Bools
    risk: Floats
    strata: Ints

    @classmethod
    def of(cls, scores: Sequence[Score], *, groups: Sequence[int] | None = None) -> Sample:
        """Put scores into arrays; strata are label and group (the file, in a total)."""
        harmful = np.array([one.label for one in scores], dtype=bool)
        group = np.zeros(len(scores), dtype=np.int64) if groups is None else np.asarray(groups, dtype=np.int64)
        return cls(
            harmful=harmful,
            predicted=np.array([one.harmful for one in scores], dtype=bool),
            risk=np.array([one.risk for one in scores], dtype=float),
            strata=group * 2 + harmful,
        )

    @property
    def mixed(self) -> bool:
        """Whether both labels occur."""
        return bool(self.harmful.any() and not self.harmful.all())

    @property
    def prepared(self) -> Prepared:
        """What the bootstrap works on."""
        return Prepared.of(harmful=self.harmful, predicted=self.predicted, risk=self.risk)


def measure(
    scores: Sequence[Score], *, groups: Sequence[int] | None = None, count: int = RESAMPLES, seed: int = SEED
) -> dict[str, Figure]:
    """Return a figure for every name in ``METRICS``.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    sample = Sample.of(scores, groups=groups)
    figures = dict.fromkeys(METRICS, _ABSENT) | _proportions(sample) | {"hazard_accuracy": hazard_accuracy(scores)}
    if sample.mixed:
        figures |= _ranked(sample, count=count, seed=seed)
    seconds = float(np.mean([one.seconds for one in scores]))
    return figures | {"seconds_per_text": Figure(seconds, n=len(scores))}


def hazard_accuracy(scores: Sequence[Score]) -> Figure:
    """Return how often the guardian's first hazard is the one that the source states, over harmful rows that state one.

    The hazard is compared whether or not the row was found harmful. A guardian that names no hazard has no accuracy.
    """
    stated = [one for one in scores if one.expected is not None]
    if not any(one.hazard is not None for one in stated):
        return _ABSENT
    return _share(sum(one.hazard == one.expected for one in stated), len(stated))


def _proportions(sample: Sample) -> dict[str, Figure]:
    harmful, predicted = sample.harmful, sample.predicted
    return {
        "recall": _share(int((harmful & predicted).sum()), int(harmful.sum())),
        "fpr": _share(int((~harmful & predicted).sum()), int((~harmful).sum())),
    }


def _share(hits: int, n: int) -> Figure:
    return Figure(hits / n, *wilson(hits, n), n=n) if n else _ABSENT


def _ranked(sample: Sample, *, count: int, seed: int) -> dict[str, Figure]:
    values = point_values(sample)
    prepared = sample.prepared
    blocks = [statistics(prepared, weights) for weights in resamples(sample.strata, count=count, seed=seed)]
    figures = {}
    for name, value in values.items():
        bounds = interval(np.concatenate([block[name] for block in blocks])) if blocks else None
        low, high = bounds or (None, None)
        figures[name] = _ABSENT if value is None else Figure(value, low, high, len(sample.risk))
    return figures


def point_values(sample: Sample) -> dict[str, float | None]:
    """Return the metrics that need both labels, by scikit-learn, without intervals."""
    try:
        from sklearn import metrics
    except ImportError:
        raise MissingDependencyError("scikit-learn", extra="evaluate") from None
    harmful, predicted, risk = sample.harmful, sample.predicted, sample.risk
    fpr, recall, _ = metrics.roc_curve(harmful, risk, drop_intermediate=False)
    named = bool(predicted.any())
    at = {name: _recall_at(fpr, recall, most=most, harmless=int((~harmful).sum())) for name, most in RECALL_AT.items()}
    return {
        "f1": float(metrics.f1_score(harmful, predicted, zero_division=0.0)),
        "precision": float(metrics.precision_score(harmful, predicted)) if named else None,
        "auprc": float(metrics.average_precision_score(harmful, risk)),
        "auroc": float(metrics.roc_auc_score(harmful, risk)),
        **at,
        "ece": float(statistics(sample.prepared, np.ones((1, len(risk))))["ece"][0]),
    }


def _recall_at(fpr: Floats, recall: Floats, *, most: float, harmless: int) -> float | None:
    """Return the best recall at this FPR or less; ``None`` where one false positive alone would already be more."""
    return float(recall[fpr <= most].max()) if harmless * most >= 1 else None
