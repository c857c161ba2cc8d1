"""The stratified bootstrap, vectorised: every resample is a row of weights, every metric a few array operations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

ECE_BINS = 15
RECALL_AT = {"recall_at_fpr_1": 0.01, "recall_at_fpr_5": 0.05}
_CELLS = 1_000_000  # weights held at once: 8 MB an array, whatever the number of rows


@dataclass(frozen=True, slots=True)
class Prepared:
    """One run's rows, sorted and grouped once for all resamples.

    Shapes: harmful, predicted, risk, bins (N,); order (N,) by falling risk; ends (G,) last place of each distinct
    risk in that order.
    """

    harmful: Bools
    predicted: Bools
    risk: Floats
    order: Ints
    ends: Ints
    bins: Ints

    @classmethod
    def of(cls, *, harmful: Bools, predicted: Bools, risk: Floats) -> Prepared:
        """Sort and group."""
        order = np.argsort(-risk, kind="stable")
        falling = risk[order]
        ends = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)
        return cls(harmful, predicted, risk, order, ends, equal_mass_bins(risk))


def equal_mass_bins(risk: Floats, *, bins: int = ECE_BINS) -> Ints:
    """Return the bin of each row: (N,). Bins hold about equally many rows; equal risks are never split over two."""
    first_rank = np.searchsorted(np.sort(risk), risk, side="left")
    return (first_rank * bins // len(risk)).astype(np.int64)


def resamples(strata: Ints, *, count: int, seed: int) -> Iterator[Floats]:
    """Yield blocks of weights (B, N), ``count`` rows in all: how often each row was drawn, strata keeping their sizes.

    Seeded: the same strata, count and seed give the same weights.
    """
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    block = max(1, _CELLS // len(strata))
    for start in range(0, count, block):
        size = min(block, count - start)
        weights = np.zeros((size, len(strata)))
        for rows in members:
            drawn = rng.integers(0, len(rows), (size, len(rows)))
            flat = (drawn + np.arange(size)[:, None] * len(rows)).ravel()
            weights[:, rows] = np.bincount(flat, minlength=size * len(rows)).reshape(size, len(rows))
        yield weights


def statistics(rows: Prepared, weights: Floats) -> dict[str, Floats]:
    """Return every metric that needs both classes, per resample: name → (B,). Undefined values are NaN.

    Shapes: weights (B, N); all ones give the value on the rows themselves.
    """
    harmful, predicted = rows.harmful, rows.predicted
    counts = weights @ np.stack([harmful & predicted, ~harmful & predicted, harmful], axis=1).astype(float)  # (B, 3)
    hits, alarms, positives = counts.T
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {
            "f1": 2 * hits / (hits + alarms + positives),
            "precision": hits / (hits + alarms),
            "recall": hits / positives,
            "fpr": alarms / (weights.sum(1) - positives),
        }
    return found | _ranking(rows, weights) | {"ece": _calibration_error(rows, weights)}


def _ranking(rows: Prepared, weights: Floats) -> dict[str, Floats]:
    falling = weights[:, rows.order]
    labels = rows.harmful[rows.order]
    hits = np.cumsum(falling * labels, axis=1)[:, rows.ends]  # (B, G)
    alarms = np.cumsum(falling * ~labels, axis=1)[:, rows.ends]
    recall, fpr = hits / hits[:, -1:], alarms / alarms[:, -1:]
    precision = hits / np.maximum(hits + alarms, 1e-12)
    start = np.zeros((len(weights), 1))
    steps = np.diff(recall, axis=1, prepend=start)
    middle = recall - steps / 2
    return {
        "auprc": (steps * precision).sum(1),
        "auroc": (np.diff(fpr, axis=1, prepend=start) * middle).sum(1),
        **{name: np.where(fpr <= most, recall, 0.0).max(1) for name, most in RECALL_AT.items()},
    }


def _calibration_error(rows: Prepared, weights: Floats) -> Floats:
    members = np.eye(ECE_BINS)[rows.bins]  # (N, 15)
    gaps = weights @ (members * (rows.risk - rows.harmful)[:, None])  # (B, 15)
    total: Floats = np.abs(gaps).sum(1) / weights.sum(1)
    return total


def interval(values: Floats) -> tuple[float, float] | None:
    """Return the 2.5 and 97.5 % quantiles of the defined values, or ``None`` where none is defined."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)
