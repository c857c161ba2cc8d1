"""Temperature and bias that turn a guardian's risk into a probability on some traffic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from guardrail_plugin.core.errors import ConfigError, MissingDependencyError
from guardrail_plugin.evals.bootstrap import Bools, Floats, Prepared, statistics

_FEWEST_PER_LABEL = 20  # for temperature and bias, two numbers that a handful of rows would decide by chance
_FOLDS = 5


@dataclass(frozen=True, slots=True)
class Scaling:
    """How risk would become a probability on this traffic: log-odds / temperature + bias.

    Attributes:
        ece_before, ece_after: expected calibration error, the latter on rows that the fit did not see (5 folds).
    """

    temperature: float
    bias: float
    ece_before: float
    ece_after: float


def fit_scaling(risk: Floats, harmful: Bools) -> Scaling | None:
    """Fit temperature and bias by maximum likelihood; ``None`` with fewer than 20 rows of a label.

    Source: Platt scaling of the log-odds (arXiv 1706.04599, section 4).

    Raises:
        ConfigError: risk falls where harm rises, so no temperature fits.
        MissingDependencyError: scikit-learn is not installed.
    """
    if min(int(harmful.sum()), int((~harmful).sum())) < _FEWEST_PER_LABEL:
        return None
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
    except ImportError:
        raise MissingDependencyError("scikit-learn", extra="evaluate") from None
    read = log_odds(risk)[:, None]
    model: Any = LogisticRegression(C=1e4, max_iter=1000)  # a hint of shrinkage: separable rows have no finite optimum
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    unseen = cross_val_predict(model, read, harmful, cv=folds, method="predict_proba")[:, 1]
    model.fit(read, harmful)
    slope = float(model.coef_[0, 0])
    if slope <= 0:
        raise ConfigError("harmful rows get no higher risk than harmless ones: are the labels the right way round?")
    return Scaling(1 / slope, float(model.intercept_[0]), _ece(risk, harmful), _ece(unseen, harmful))


def log_odds(risk: Floats) -> Floats:
    """Return log(risk / (1 - risk)), finite also at 0 and 1."""
    clipped = np.clip(risk, 1e-9, 1 - 1e-9)
    found: Floats = np.log(clipped) - np.log1p(-clipped)
    return found


def _ece(risk: Floats, harmful: Bools) -> float:
    prepared = Prepared.of(harmful=harmful, predicted=risk >= 0.5, risk=risk)
    return float(statistics(prepared, np.ones((1, len(risk))))["ece"][0])
