"""Can the label be told from style alone? A classifier that sees no content word, and a mix drawn against it.

Where style tells, a guardian learns the style of the sources instead of the harm (questions against imperatives, long
against short).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrail_plugin.core.errors import ConfigError, MissingDependencyError
from guardrail_plugin.training.rows import Example

_FUNCTION_WORDS = frozenset(
    (
        "a about after again all also am an and any anyone are as at be because been before being but by can could did "
        "do does doing don't each even every few for from get give had has have he her here him his how i i'm if in "
        "into is it it's its just like list make many may me might more most much must my need no not now of on one "
        "only or other our out over own please she should so some someone such tell than that the their them then "
        "there these they this those to too under until up us use very want was we were what when where which while "
        "who why will with without would write you your explain create describe generate help step steps guide way"
    ).split()
)
_MARKS = "?!.,:;\"'()-\n"
_FIRST_WORDS = 150
_FOLDS = 5


@dataclass(frozen=True, slots=True)
class StyleProbe:
    """What the probe found.

    Attributes:
        rows: texts probed.
        auroc: mean over folds; 0.5 = style says nothing.
        folds: one per fold.
        harmful_style: features that speak most for harmful, strongest first.
        harmless_style: and for harmless.
    """

    rows: int
    auroc: float
    folds: tuple[float, ...]
    harmful_style: tuple[str, ...]
    harmless_style: tuple[str, ...]


def probe_style(examples: Sequence[Example], *, seed: int = 0) -> StyleProbe:
    """Cross-validate logistic regression on function words, length, punctuation and the first word.

    A text that occurs more than once counts as often, and stays on one side of every split.

    Raises:
        ConfigError: a fold lacks a label.
        MissingDependencyError: scikit-learn is not installed.
    """
    unique = list({example.text: example for example in examples}.values())
    harmful = np.array([example.harmful for example in unique], dtype=bool)  # (N,)
    fold_of = _folds(len(unique), seed=seed)
    if not all(_has_both(harmful[fold_of == fold]) for fold in range(_FOLDS)):
        raise ConfigError("too few rows per label for a style probe")
    features, names = style_features([example.text for example in unique])  # (N, F)
    times = Counter(example.text for example in examples)
    counts = np.array([times[example.text] for example in unique], dtype=float)  # (N,)
    log_odds = _cross_fit(features, harmful, counts, fold_of)
    weights = _fitted(features, harmful, counts)[-1].coef_[0]  # (F,)
    order = np.argsort(weights)
    folds = tuple(_auroc(log_odds[m], harmful[m], counts[m]) for m in (fold_of == k for k in range(_FOLDS)))
    return StyleProbe(
        rows=len(examples),
        auroc=float(np.mean(folds)),
        folds=folds,
        harmful_style=tuple(names[i] for i in order[::-1][:12]),
        harmless_style=tuple(names[i] for i in order[:12]),
    )


def balance_style(
    examples: Sequence[Example], rng: random.Random, *, least: float = 0.25, most: float = 2.0
) -> list[Example]:
    """Redraw examples so that style says less: those whose style gives the label away more rarely, others more often.

    Each is kept ``w = 0.5 / P(its label | its style)`` times on average, ``w`` cut to ``[least, most]``: inverse
    propensity weights, with the probability cross-fitted so that no text is judged by a classifier that has seen it.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    features, _ = style_features([example.text for example in examples])  # (N, F)
    harmful = np.array([example.harmful for example in examples])  # (N,)
    if harmful.sum() < _FOLDS or (~harmful).sum() < _FOLDS:
        return list(examples)
    fold_of = _folds(len(harmful), seed=0)
    if not all(_has_both(harmful[fold_of != fold]) for fold in range(_FOLDS)):  # all rows of a label in one fold
        return list(examples)
    log_odds = _cross_fit(features, harmful, np.ones(len(harmful)), fold_of)
    own = 1 / (1 + np.exp(-np.where(harmful, log_odds, -log_odds)))  # (N,) P(its label | its style)
    drawn = []
    for example, weight in zip(examples, np.clip(0.5 / own, least, most), strict=True):
        copies = int(weight) + (rng.random() < weight - int(weight))
        drawn += [example] * copies
    return drawn


def _fitted(features: npt.NDArray[np.float64], harmful: npt.NDArray[np.bool_], counts: npt.NDArray[np.float64]) -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise MissingDependencyError("scikit-learn", extra="train") from None
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500, class_weight="balanced"))
    return model.fit(features, harmful, logisticregression__sample_weight=counts)


def _folds(count: int, *, seed: int) -> npt.NDArray[np.int64]:
    """Return the fold of each row (N,)."""
    return np.random.default_rng(seed).permutation(count) % _FOLDS


def _has_both(harmful: npt.NDArray[np.bool_]) -> bool:
    return bool(harmful.any() and not harmful.all())


def _cross_fit(
    features: npt.NDArray[np.float64],
    harmful: npt.NDArray[np.bool_],
    counts: npt.NDArray[np.float64],
    fold_of: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Return out-of-fold log-odds (N,)."""
    log_odds = np.zeros(len(harmful))
    for fold in range(_FOLDS):
        seen = fold_of != fold
        model = _fitted(features[seen], harmful[seen], counts[seen])
        log_odds[~seen] = model.decision_function(features[~seen])
    return log_odds


def _auroc(scores: npt.NDArray[np.float64], harmful: npt.NDArray[np.bool_], counts: npt.NDArray[np.float64]) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(harmful, scores, sample_weight=counts))


def style_features(texts: Sequence[str]) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Return features (N, F) and their names."""
    words = [re.findall(r"[a-z']+", text.lower()) for text in texts]
    first = [w for w, _ in Counter(found[0] for found in words if found).most_common(_FIRST_WORDS)]
    function = sorted(_FUNCTION_WORDS)
    names = [*(f"word {w!r}" for w in function), *(f"first word {w!r}" for w in first)]
    names += [*(f"mark {mark!r}" for mark in _MARKS), "length", "word length", "capitals", "starts lower case"]
    return np.array([_row(t, w, function, first) for t, w in zip(texts, words, strict=True)]), names


def _row(text: str, words: Sequence[str], function: Sequence[str], first: Sequence[str]) -> list[float]:
    counts = Counter(words)
    length = max(1, len(words))
    row = [counts[w] / length for w in function]
    row += [float(bool(words) and words[0] == w) for w in first]
    row += [text.count(mark) / length for mark in _MARKS]
    capitals = sum(c.isupper() for c in text) / max(1, len(text))
    return [*row, float(np.log1p(len(words))), len(text) / length, capitals, float(text[:1].islower())]
