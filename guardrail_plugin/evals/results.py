"""What an evaluation found, as plain values that become ``results.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.core.verdict import Rail
from guardrail_plugin.evals.breakdown import Bin, Miss, Rate, SweepPoint, rates, reliability, sweep, worst
from guardrail_plugin.evals.dataset import Dataset, contradictions, distinct
from guardrail_plugin.evals.metrics import Figure, Sample, measure
from guardrail_plugin.evals.score import Score, as_verdict

if TYPE_CHECKING:
    from guardrail_plugin.evals.response_figures import ResponseResult

RESULTS_FILE = "results.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Scored:
    """A dataset with the scores of its rows, in the same order."""

    dataset: Dataset
    scores: tuple[Score, ...]


@dataclass(frozen=True, slots=True)
class SetResult:
    """The figures of one file, or of the total of one rail.

    Attributes:
        skipped: rows without a label, left out.
        failed: rows without a verdict; they count as found harmful.
        truncated: rows of which only a part was looked at.
        threshold: risk at which the guardian, or the policy, acted; ``None`` where it answered no row, or rules about
            single hazards decided too.
        misses: worst misses and false alarms, by id.
        contradictory: texts that carry both labels; a total counts the first.
        partial: rows judged without one of several guardians, or by one that stood in for another.
    """

    name: str
    rail: Rail
    path: str
    fingerprint: str
    n: int
    harmful: int
    skipped: int
    failed: int
    truncated: int
    threshold: float | None
    metrics: Mapping[str, Figure]
    rates: Mapping[str, Sequence[Rate]]
    sweep: Sequence[SweepPoint]
    reliability: Sequence[Bin]
    misses: Sequence[Miss]
    contradictory: int = 0
    partial: int = 0

    @property
    def harmless(self) -> int:
        """Rows labelled harmless."""
        return self.n - self.harmful

    @property
    def mixed(self) -> bool:
        """Whether both labels occur."""
        return 0 < self.harmful < self.n


@dataclass(frozen=True, slots=True)
class RunResult:
    """One evaluation of one guardian.

    Attributes:
        policy: version of the policy that decided, or ``None`` for the guardian's own thresholds.
        created: time of the run, ISO 8601, UTC.
        totals: one per rail, every text counted once whatever number of files hold it.
        responses: figures of safeguard responses, where the run asked for them.
    """

    guardian: str
    library: str
    created: str
    policy: str | None
    seed: int
    resamples: int
    files: Sequence[SetResult]
    totals: Sequence[SetResult]
    responses: ResponseResult | None = None

    def write(self, folder: Path) -> Path:
        """Write ``results.json`` and return its path.

        Raises:
            ConfigError: the folder cannot be written.
        """
        path = folder / RESULTS_FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1, allow_nan=False, ensure_ascii=False)
            path.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise ConfigError(f"cannot write to {folder}: {error.strerror}") from None
        return path


def file_result(scored: Scored, *, count: int, seed: int, policy: Policy | None = None) -> SetResult:
    """Return the figures of one file, whose scores carry the decisions of ``policy`` if there is one."""
    data = scored.dataset
    figures = measure(scored.scores, count=count, seed=seed)
    found = _result(scored, figures, policy=policy)
    return replace(found, path=str(data.path), fingerprint=data.fingerprint, contradictory=len(contradictions([data])))


def totals(scored: Sequence[Scored], *, count: int, seed: int, policy: Policy | None = None) -> list[SetResult]:
    """Return one result per rail over the distinct texts of its files."""
    found = []
    for rail in dict.fromkeys(one.dataset.rail for one in scored):
        mine = [one for one in scored if one.dataset.rail == rail]
        pooled, groups = pool(mine)
        figures = measure(pooled.scores, groups=groups, count=count, seed=seed)
        both = len(contradictions([one.dataset for one in mine]))
        found.append(replace(_result(pooled, figures, policy=policy), contradictory=both))
    return found


def pool(scored: Sequence[Scored]) -> tuple[Scored, list[int]]:
    """Return the distinct rows of several files of one rail (first occurrences) and each row's file number."""
    places = distinct([one.dataset for one in scored])
    rows = tuple(scored[number].dataset.rows[place] for number, place in places)
    scores = tuple(scored[number].scores[place] for number, place in places)
    first = scored[0].dataset
    skipped = sum(one.dataset.skipped for one in scored)
    data = Dataset(f"all {first.rail}", first.path, first.rail, rows, skipped, "")
    return Scored(data, scores), [number for number, _ in places]


def _result(scored: Scored, figures: Mapping[str, Figure], *, policy: Policy | None) -> SetResult:
    data, scores = scored.dataset, scored.scores
    sample = Sample.of(scores)
    return SetResult(
        name=data.name,
        rail=data.rail,
        path="",
        fingerprint="",
        n=len(scores),
        harmful=int(sample.harmful.sum()),
        skipped=data.skipped,
        failed=sum(one.error is not None for one in scores),
        truncated=sum(one.truncated for one in scores),
        partial=sum(one.incomplete or one.stand_in for one in scores),
        threshold=_acted_at(scores, data.rail, policy),
        metrics=figures,
        rates=rates(data.rows, scores),
        sweep=sweep(sample),
        reliability=reliability(sample),
        misses=worst(data.rows, scores),
    )


def _acted_at(scores: Sequence[Score], rail: Rail, policy: Policy | None) -> float | None:
    answered = next((one for one in scores if one.threshold is not None), None)
    if answered is None or policy is None:
        return None if answered is None else answered.threshold
    by_hazard = any(rule.action == "allow" or rule.threshold is not None for rule in policy.hazards.values())
    rule = policy.rails.get(rail)
    if by_hazard or (rule is not None and rule.action == "allow"):
        return None
    return policy.threshold_for(as_verdict(answered, rail, ""))
