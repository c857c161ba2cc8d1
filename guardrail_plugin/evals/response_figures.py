"""Figures of safeguard responses: per file and in total, with 95 % intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from guardrail_plugin.evals.dataset import EvalRow
from guardrail_plugin.evals.fit import TOP, held_out_accuracy
from guardrail_plugin.evals.intervals import wilson
from guardrail_plugin.evals.metrics import Figure
from guardrail_plugin.evals.responses import Answer, Answered

MOST_TOKENS = 80
SAMPLE = 50
TOTAL = "all responses"

RESPONSE_METRICS: dict[str, str] = {
    "refuses": "Refuses",
    "flagged": "Flagged by own output rail",
    "by_model": "Written by the model",
    "tokens_median": "Tokens, median",
    "tokens_p95": "Tokens, 95th percentile",
    "within_limit": f"At most {MOST_TOKENS} tokens",
    "most_frequent": "Most frequent response",
    "in_language": "In the caller's language",
    "fits_named": "Fits the hazard named",
    "fits_stated": "Fits the source's hazard",
}

_ABSENT = Figure(None)


@dataclass(frozen=True, slots=True)
class ResponseSet:
    """The figures of one file's responses, or of all.

    Attributes:
        n: responses.
        distinct: different responses.
        longest: tokens of the longest; ``None`` where the guardian counts none.
        figures: one for every name in ``RESPONSE_METRICS``.
    """

    name: str
    n: int
    distinct: int
    longest: int | None
    figures: Mapping[str, Figure]


@dataclass(frozen=True, slots=True)
class ResponseResult:
    """What a run found out about safeguard responses.

    Attributes:
        wanted: responses asked for per file: a number, or ``"all"``.
        fit_ceiling: share of people's written responses that the fit measure finds fitting when it was not shown them.
        fit_top: hazards that it counts as fitting.
        total: every query counted once whatever number of files hold it.
        sample: (set, row id) of the rows that the report puts beside their responses.
    """

    wanted: str
    fit_ceiling: float
    fit_top: int
    sets: Sequence[ResponseSet]
    total: ResponseSet
    sample: Sequence[tuple[str, str]]


def response_result(answered: Sequence[Answered], *, wanted: str, count: int, seed: int) -> ResponseResult:
    """Return the figures; ``count`` and ``seed`` are of the bootstrap, ``seed`` also of the sample."""
    together = _distinct(answered)
    return ResponseResult(
        wanted=wanted,
        fit_ceiling=held_out_accuracy(),
        fit_top=TOP,
        sets=[response_set(one.name, one.answers, count=count, seed=seed) for one in answered if one.answers],
        total=response_set(TOTAL, [answer for _, _, answer in together], count=count, seed=seed),
        sample=_drawn([(name, row.id) for name, row, _ in together], seed=seed),
    )


def response_set(name: str, answers: Sequence[Answer], *, count: int, seed: int) -> ResponseSet:
    """Return the figures of some answers, at least one."""
    frequency = Counter(one.digest for one in answers)
    tokens = [one.tokens for one in answers if one.tokens is not None]
    figures = {
        "refuses": _share(answers, lambda one: one.refuses),
        "flagged": _share(answers, lambda one: one.flagged),
        "by_model": _share(answers, lambda one: one.by_model),
        "tokens_median": _quantile(tokens, 0.5, count=count, seed=seed),
        "tokens_p95": _quantile(tokens, 0.95, count=count, seed=seed),
        "within_limit": _share(answers, lambda one: None if one.tokens is None else one.tokens <= MOST_TOKENS),
        "most_frequent": _proportion(max(frequency.values()), len(answers)),
        "in_language": _share(answers, lambda one: one.in_language),
        "fits_named": _share(answers, lambda one: one.fits_named),
        "fits_stated": _share(answers, lambda one: one.fits_stated),
    }
    return ResponseSet(name, len(answers), len(frequency), max(tokens, default=None), figures)


def _distinct(answered: Sequence[Answered]) -> list[tuple[str, EvalRow, Answer]]:
    seen: set[bytes] = set()
    found = []
    for one in answered:
        for row, answer in zip(one.rows, one.answers, strict=True):
            if row.key not in seen:
                seen.add(row.key)
                found.append((one.name, row, answer))
    return found


def _drawn(keys: Sequence[tuple[str, str]], *, seed: int) -> list[tuple[str, str]]:
    """Return up to ``SAMPLE`` of the rows, in their order."""
    places = np.random.default_rng(seed).permutation(len(keys))[:SAMPLE]
    return [keys[i] for i in sorted(places.tolist())]


def _share(answers: Sequence[Answer], holds: Callable[[Answer], bool | None]) -> Figure:
    known = [held for one in answers if (held := holds(one)) is not None]
    return _proportion(sum(known), len(known))


def _proportion(hits: int, n: int) -> Figure:
    return Figure(hits / n, *wilson(hits, n), n=n) if n else _ABSENT


def _quantile(values: Sequence[int], share: float, *, count: int, seed: int) -> Figure:
    if not values:
        return _ABSENT
    numbers = np.asarray(values, dtype=float)
    rng = np.random.default_rng(seed)
    # One resample at a time: a thousand of ten thousand numbers at once would be 80 MB.
    drawn = [float(np.quantile(rng.choice(numbers, len(numbers)), share)) for _ in range(count)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Figure(float(np.quantile(numbers, share)), float(low), float(high), len(values))
