"""Does a safeguard response speak of the right concern? A small lexical classifier: text → the hazards it may be about.

A measure, not a judge. It knows hazards by the words of the corpus (written responses and the topics they answer), so
it sees a response to a prompt injection that talks of medicine, and not one that is right in content and odd in
wording. How far to trust it stands in the report: its accuracy on written responses that it was not shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from guardrail_plugin.core.errors import MissingDependencyError

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

TOP = 2
"""Hazards that count as fitting. Neighbours share their words: S1 and S9, S2 and S14, S3 and S12."""

_FOLDS = 5
_SAFE = "safe"


class HazardWords:
    """Multinomial naive Bayes over character 3- to 5-grams of words, weighted by TF-IDF; trained on the corpus."""

    def __init__(self) -> None:
        texts, hazards = _examples()
        self._pipeline = _fitted(texts, hazards)
        self._codes: list[str] = [str(code) for code in self._pipeline.classes_]

    def knows(self, hazard: str | None) -> bool:
        """Whether the corpus has written responses for this hazard."""
        return hazard in self._codes

    def hazards(self, texts: Sequence[str]) -> list[tuple[str, ...]]:
        """Return the ``TOP`` most probable hazards of each text, the likeliest first."""
        if not texts:
            return []
        order = np.argsort(-self._pipeline.predict_log_proba(list(texts)), axis=1, kind="stable")
        return [tuple(self._codes[i] for i in row[:TOP]) for row in order]


@cache
def hazard_words() -> HazardWords:
    """Return the classifier, trained on first use (about a second).

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    return HazardWords()


@cache
def held_out_accuracy() -> float:
    """Return the share of written responses whose hazard is among the ``TOP``, each judged by a model without it.

    The ceiling of the fit figures: texts that people wrote for the hazard reach no more. Five folds, seeded.
    """
    texts, hazards = _responses()
    extra_texts, extra_hazards = _topics()
    folds = np.random.default_rng(0).permutation(len(texts)) % _FOLDS
    hits = 0
    for fold in range(_FOLDS):
        shown = np.flatnonzero(folds != fold)
        model = _fitted([*extra_texts, *(texts[i] for i in shown)], [*extra_hazards, *(hazards[i] for i in shown)])
        kept = np.flatnonzero(folds == fold)
        order = np.argsort(-model.predict_log_proba([texts[i] for i in kept]), axis=1, kind="stable")[:, :TOP]
        hits += sum(hazards[i] in model.classes_[row] for i, row in zip(kept, order, strict=True))
    return hits / len(texts)


def _fitted(texts: Sequence[str], hazards: Sequence[str]) -> Pipeline:
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.naive_bayes import MultinomialNB
        from sklearn.pipeline import make_pipeline
    except ImportError:
        raise MissingDependencyError("scikit-learn", extra="evaluate") from None
    grams = TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(3, 5))
    # alpha: held-out top-2 accuracy 0.86; word features reach 0.80, the responses alone without topics 0.72.
    return make_pipeline(grams, MultinomialNB(alpha=0.02)).fit(list(texts), list(hazards))


def _examples() -> tuple[list[str], list[str]]:
    (texts, hazards), (more_texts, more_hazards) = _responses(), _topics()
    return texts + more_texts, hazards + more_hazards


def _responses() -> tuple[list[str], list[str]]:
    rows = list(_rows("responses_"))
    return [row["text"] for row in rows], [row["label"] for row in rows]


def _topics() -> tuple[list[str], list[str]]:
    rows = [row for row in _rows("topics_") if row["label"] != _SAFE]
    return [f"{row['text']} {row['theme']}" for row in rows], [row["label"] for row in rows]


def _rows(prefix: str) -> Iterator[dict[str, str]]:
    folder = resources.files("guardrail_plugin").joinpath("training", "corpus")
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.startswith(prefix) and file.name.endswith(".jsonl"):
            for line in file.read_text(encoding="utf-8").splitlines():
                yield json.loads(line)
