"""TF-IDF over words and characters with logistic regression: what surface form alone gives away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import ConfigError, GuardrailError, MissingDependencyError
from guardrail_plugin.evals.baselines.guardian import Risk
from guardrail_plugin.evals.baselines.per_rail import risks_per_rail
from guardrail_plugin.evals.baselines.training import TrainingSets
from guardrail_plugin.evals.bootstrap import Bools
from guardrail_plugin.evals.dataset import EvalRow

_MANY_ROWS = 1000  # from here on n-grams seen once are noise
_MOST_FEATURES = 200_000


class TfidfClassifier:
    """One model per rail: word 1-2-grams and character 3-5-grams, TF-IDF, logistic regression with balanced classes."""

    def __init__(self, sets: TrainingSets) -> None:
        """Train.

        Raises:
            MissingDependencyError: scikit-learn is not installed.
        """
        self._models = {rail: _fit(rows) for rail, rows in sets.rows.items()}
        self._digest = sets.digest

    @property
    def id(self) -> str:
        """Name and training data."""
        return f"tfidf-{self._digest}"

    def risks(self, checks: Sequence[Check]) -> Sequence[Risk | GuardrailError]:
        """Return the probability of the harmful class.

        Raises:
            ConfigError: there were no training rows for a check's rail.
        """
        return risks_per_rail(checks, self._models, _whole_texts)


def _whole_texts(checks: Sequence[Check]) -> tuple[list[str], Bools]:
    return [as_one_text(check) for check in checks], np.zeros(len(checks), dtype=bool)


def as_one_text(check: Check) -> str:
    """Return what a bag of n-grams sees of a check: query and response together."""
    return check.text if check.query is None else f"{check.query}\n\n{check.text}"


def _fit(rows: Sequence[EvalRow]) -> Any:
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline, make_union
    except ImportError:
        raise MissingDependencyError("scikit-learn", extra="evaluate") from None
    common = {"sublinear_tf": True, "min_df": 2 if len(rows) >= _MANY_ROWS else 1, "max_features": _MOST_FEATURES}
    features = make_union(
        TfidfVectorizer(ngram_range=(1, 2), **common),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), **common),
    )
    model = make_pipeline(features, LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000))
    try:
        return model.fit([as_one_text(row.check) for row in rows], [row.harmful for row in rows])
    except ValueError as error:
        raise ConfigError(f"TF-IDF cannot be fitted on these rows: {error}") from None
