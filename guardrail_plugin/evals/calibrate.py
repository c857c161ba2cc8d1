"""Fit temperature, bias and threshold to a user's own labelled traffic, and say how far the fit can be trusted."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.core.verdict import Rail
from guardrail_plugin.evals.bootstrap import Floats
from guardrail_plugin.evals.dataset import Dataset, EvalFile, EvalRow, contradictions, distinct, load
from guardrail_plugin.evals.intervals import upper_bound, wilson
from guardrail_plugin.evals.results import Scored, pool
from guardrail_plugin.evals.scaling import Scaling, fit_scaling, log_odds
from guardrail_plugin.evals.score import Score, score
from guardrail_plugin.guardian.protocol import GuardianProtocol

_SHOWN = 5  # contradictions that an error lists
_RULE_OF_THREE = 3.0  # no false positive in 3 / p rows: then the rate is below p with 95 % confidence


@dataclass(frozen=True, slots=True)
class RailFit:
    """What was fitted for one rail.

    Attributes:
        threshold: on the guardian's own risk, as policies use it.
        false_positives: harmless rows at or above the threshold.
        fpr_bound: one-sided 95 % Clopper-Pearson upper bound of the false-positive rate at the threshold.
        hits: harmful rows at or above the threshold.
        recall_low, recall_high: 95 % Wilson interval; ``None`` without harmful rows.
        before: false positives and hits at the guardian's own threshold.
        scaling: ``None`` where a label has fewer than 20 rows.
        duplicates: rows left out because their text had been counted.
        failed: rows without a verdict, or with one that lacks a guardian of several; they count as flagged.
        truncated: rows that were read in part only; policies block them at any threshold, so they count as flagged.
    """

    rail: Rail
    threshold: float
    harmless: int
    false_positives: int
    fpr_bound: float
    harmful: int
    hits: int
    recall_low: float | None
    recall_high: float | None
    before: tuple[int, int]
    scaling: Scaling | None
    duplicates: int
    failed: int
    truncated: int

    @property
    def fpr(self) -> float:
        """False-positive rate on these rows."""
        return self.false_positives / self.harmless

    @property
    def recall(self) -> float | None:
        """Recall on these rows; ``None`` without harmful ones."""
        return self.hits / self.harmful if self.harmful else None


@dataclass(frozen=True, slots=True)
class Fit:
    """One calibration.

    Attributes:
        certified: thresholds keep the upper bound of the FPR, not only the observed rate, at ``max_fpr``.
        version: of the policy: a hash of guardian, rows and target.
    """

    guardian: str
    max_fpr: float
    certified: bool
    version: str
    rails: Sequence[RailFit]

    def toml(self) -> str:
        """Return the policy, with what it rests on in comments. ``Policy.from_toml`` reads it."""
        lines = [
            "# Written by guardrail calibrate. Thresholds fitted on labelled traffic; they hold for traffic like it.",
            f"# guardian: {' '.join(self.guardian.split())}",
            f'version = "{self.version}"',
        ]
        for fit in self.rails:
            lines += ["", *(f"# {line}" for line in describe(fit))]
            lines += [f"[rails.{fit.rail}]", f"threshold = {fit.threshold!r}"]
        text = "\n".join(lines) + "\n"
        Policy.from_toml(text)
        return text


def calibrate(
    guardian: GuardianProtocol,
    files: Sequence[EvalFile],
    *,
    max_fpr: float,
    certify: bool = False,
    quiet: bool = False,
) -> Fit:
    """Score labelled traffic and fit a threshold per rail.

    The threshold is the lowest one at which the false-positive rate on these rows is at most ``max_fpr``; with
    ``certify`` the lowest one at which its 95 % upper bound is. A text that occurs twice counts once.

    Raises:
        ConfigError: a file is malformed, a text carries both labels, ``max_fpr`` is out of range, a rail has too few
            harmless rows to support the claim (3 / max_fpr), or the guardian puts too many of them at risk 1.
        GuardrailError: the guardian is broken (see ``score``).
        MissingDependencyError: scikit-learn is not installed.
    """
    if not 0.0 < max_fpr < 1.0:
        raise ConfigError(f"max_fpr is a share above 0 and below 1, got {max_fpr:g}")
    if not files:
        raise ConfigError("no labelled traffic: name JSONL files with --data")
    datasets = [load(file) for file in files]
    _check_labels(datasets)
    for rail in _rails(datasets):  # before any text is scored
        mine = [data for data in datasets if data.rail == rail]
        harmless = sum(not mine[number].rows[place].harmful for number, place in distinct(mine))
        _check_support(rail, harmless, max_fpr=max_fpr)
    scored = [Scored(data, tuple(score(data, guardian, quiet=quiet))) for data in datasets]
    fits = [
        _fit_rail([one for one in scored if one.dataset.rail == rail], max_fpr=max_fpr, certify=certify)
        for rail in _rails(datasets)
    ]
    digest = hashlib.sha256(
        json.dumps([guardian.id, max_fpr, certify, *(data.fingerprint for data in datasets)]).encode()
    ).hexdigest()
    return Fit(guardian.id, max_fpr, certify, f"calibrated-{digest[:8]}", fits)


def threshold_for(harmless: Floats, everything: Floats, *, max_fpr: float, certify: bool) -> float:
    """Return the lowest threshold that keeps false positives within ``max_fpr``, in the middle of the gap it lies in.

    Args:
        harmless: risks of the harmless rows (N,).
        everything: risks of all rows.
        max_fpr: most false positives, as a share.
        certify: bound the rate's 95 % upper bound instead of the rate.

    Raises:
        ConfigError: more harmless rows than allowed have the highest risk there is.
    """
    falling = np.sort(harmless)[::-1]
    allowed = most_false_positives(len(falling), max_fpr=max_fpr, certify=certify)
    floor = float(falling[allowed])  # one row too many would be flagged at this risk
    above = everything[everything > floor]
    if floor >= 1.0:
        raise ConfigError(
            f"the guardian gives risk 1 to more than {allowed} of {len(falling)} harmless rows (rows without a verdict "
            "and rows read in part only count so); no threshold keeps false positives that low"
        )
    return _between(floor, float(above.min()) if len(above) else 1.0)


def most_false_positives(n: int, *, max_fpr: float, certify: bool) -> int:
    """Return how many of ``n`` harmless rows may be flagged."""
    # The small term keeps 0.01 * 300 at 3 where floating point says 2.9999999999999996.
    allowed = min(math.floor(max_fpr * n + 1e-9), n - 1)
    if certify:
        while allowed > 0 and upper_bound(allowed, n) > max_fpr:
            allowed -= 1
    return allowed


def describe(fit: RailFit) -> list[str]:
    """Return what the threshold rests on, as sentences for people."""
    lines = [
        f"{fit.false_positives} of {fit.harmless} harmless rows flagged: {100 * fit.fpr:.2f} %, "
        f"at most {100 * fit.fpr_bound:.2f} % with 95 % confidence",
    ]
    if fit.recall is not None and fit.recall_low is not None and fit.recall_high is not None:
        lines.append(
            f"{fit.hits} of {fit.harmful} harmful rows found: {100 * fit.recall:.1f} % "
            f"({100 * fit.recall_low:.1f}-{100 * fit.recall_high:.1f} %)"
        )
    else:
        lines.append("no harmful rows: what the threshold misses is unknown")
    if fit.scaling is not None:
        lines.append(
            f"as probabilities: temperature {fit.scaling.temperature:.3f}, bias {fit.scaling.bias:+.3f}; "
            f"calibration error {fit.scaling.ece_before:.3f}, with them {fit.scaling.ece_after:.3f}"
        )
    if fit.truncated:
        lines.append(
            f"{fit.truncated} rows were read in part only; on_truncated blocks them, and they count as flagged"
        )
    return lines


def _fit_rail(scored: Sequence[Scored], *, max_fpr: float, certify: bool) -> RailFit:
    pooled, _ = pool(scored)
    rows: Sequence[EvalRow] = pooled.dataset.rows
    scores: Sequence[Score] = pooled.scores
    judged = np.array([one.risk for one in scores])
    # A policy holds its threshold against each member of a verdict.
    strictest = np.array([max(one.risk, *(member.risk for member in one.members), 0.0) for one in scores])
    harmful = np.array([one.label for one in scores], dtype=bool)
    truncated = np.array([one.truncated or any(m.truncated for m in one.members) for one in scores], dtype=bool)
    incomplete = np.array([one.incomplete for one in scores], dtype=bool)
    acted = np.array([one.harmful for one in scores], dtype=bool) | truncated | incomplete
    risk = np.where(truncated | incomplete, 1.0, strictest)
    threshold = threshold_for(risk[~harmful], risk, max_fpr=max_fpr, certify=certify)
    flagged = risk >= threshold
    alarms, hits = int((flagged & ~harmful).sum()), int((flagged & harmful).sum())
    low, high = wilson(hits, int(harmful.sum())) if harmful.any() else (None, None)
    answered = np.array([one.error is None for one in scores], dtype=bool)
    return RailFit(
        rail=rows[0].check.rail,
        threshold=threshold,
        harmless=int((~harmful).sum()),
        false_positives=alarms,
        fpr_bound=upper_bound(alarms, int((~harmful).sum())),
        harmful=int(harmful.sum()),
        hits=hits,
        recall_low=low,
        recall_high=high,
        before=(int((acted & ~harmful).sum()), int((acted & harmful).sum())),
        scaling=fit_scaling(judged[answered], harmful[answered]),
        duplicates=sum(len(one.scores) for one in scored) - len(scores),
        failed=int((~answered | incomplete).sum()),
        truncated=int(truncated.sum()),
    )


def _rails(datasets: Sequence[Dataset]) -> list[Rail]:
    return list(dict.fromkeys(data.rail for data in datasets))


def _check_labels(datasets: Sequence[Dataset]) -> None:
    found = contradictions(datasets)
    if not found:
        return
    shown = "; ".join(" and ".join(f"{path}, line {line}" for path, line in places) for places in found[:_SHOWN])
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    texts = "1 text is" if len(found) == 1 else f"{len(found)} texts are"
    raise ConfigError(f"{texts} labelled both harmful and harmless: {shown}{more}")


def _check_support(rail: Rail, harmless: int, *, max_fpr: float) -> None:
    needed = math.ceil(_RULE_OF_THREE / max_fpr - 1e-9)
    if harmless < needed:
        raise ConfigError(
            f"{harmless} distinct harmless rows on the {rail} rail cannot support a false-positive rate of "
            f"{100 * max_fpr:g} %: at least {needed} are needed (3 / max_fpr). Label more traffic, or allow more with "
            "--max-fpr"
        )


def _between(low: float, high: float) -> float:
    """Return the middle of a gap in log-odds, above ``low`` and at most ``high`` whatever rounding does."""
    middle = float(np.mean(log_odds(np.array([low, high]))))
    threshold = 1 / (1 + math.exp(-middle))
    return threshold if low < threshold <= high else min(math.nextafter(low, 1.0), high)
