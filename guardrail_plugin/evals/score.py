"""Run a guardian over a dataset, in chunks, with a progress bar; what was scored before is not scored again."""

from __future__ import annotations

import time
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from tqdm import tqdm

from guardrail_plugin.core.errors import GuardianError, GuardrailError, InputError
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.core.verdict import Rail, Verdict
from guardrail_plugin.evals.dataset import Dataset, EvalRow
from guardrail_plugin.evals.settings import judging_settings
from guardrail_plugin.evals.store import ScoreStore
from guardrail_plugin.guardian.protocol import CheckOutcome, GuardianProtocol

_CHUNK = 64
_MOST_FAILURES_IN_A_ROW = 16


@dataclass(frozen=True, slots=True)
class MemberScore:
    """What a member of a verdict said, as far as a policy acts on it."""

    risk: float
    threshold: float
    hazard: str | None = None
    hazards: dict[str, float] = field(default_factory=dict)
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Score:
    """What a guardian said of one row. Holds no text.

    Attributes:
        label: the row's label.
        risk: the guardian's risk; 1 where it gave no verdict, since the rail then blocks.
        harmful: the decision at the guardian's threshold, or the policy's; true where it gave no verdict.
        expected: the row's hazard code, where source and category settle it.
        seconds: wall time of the row's chunk divided by the chunk's rows: throughput, not the latency of one call.
        members: as the verdict's: a policy acts on the strictest.
        incomplete: the verdict lacks a member's; policies block what it would let pass.
        stand_in: the verdict took the place of another guardian's that could not be had.
        error: the error's class where no verdict could be had.
    """

    id: str
    label: bool
    risk: float
    harmful: bool
    threshold: float | None = None
    hazard: str | None = None
    hazards: dict[str, float] = field(default_factory=dict)
    expected: str | None = None
    seconds: float = 0.0
    windows: int = 0
    truncated: bool = False
    members: tuple[MemberScore, ...] = ()
    incomplete: bool = False
    stand_in: bool = False
    error: str | None = None

    @property
    def final(self) -> bool:
        """Whether all that were to judge the row did; a later run asks about others again."""
        return self.error is None and not self.incomplete and not self.stand_in


_SCORE = TypeAdapter(Score)


def score(
    dataset: Dataset, guardian: GuardianProtocol, *, folder: Path | None = None, quiet: bool = False
) -> list[Score]:
    """Return one score per row, in the order of the rows.

    With ``folder`` each chunk is written to ``folder/NAME.jsonl`` as it comes; a run that was cut short goes on where
    it stopped, as long as guardian, its settings and file are the same. Rows without a verdict, or with one that lacks
    a guardian of several, are asked again.

    Raises:
        GuardrailError: the guardian fails for 16 rows in a row, or for all: then it is the guardian that is broken,
            and calling every row harmful would measure nothing. Rows that failed in an earlier run do not count.
        ConfigError: the scores file cannot be written.
    """
    store = ScoreStore(
        folder,
        name=dataset.name,
        guardian=guardian.id,
        fingerprint=dataset.fingerprint,
        settings=judging_settings(guardian),
    )
    rows = {row.id: row for row in dataset.rows}
    before = [found for found in map(_from_json, store.read()) if found is not None and found.id in rows]
    done = {found.id: found for found in before if found.final}
    failed = {found.id for found in before if found.error is not None} if done else set()
    # Failed rows stay until they are asked again: a run that is cut short before that must know of them, too.
    kept = {found.id: found for found in before if found.final or found.id in failed} | done
    store.rewrite([_as_json(found) for found in kept.values()])
    missing = [row for row in dataset.rows if row.id not in done]
    # Texts of like length share a batch without padding. The longest come first: memory runs out early or never.
    missing.sort(key=lambda row: len(row.check.text), reverse=True)
    watch = _Watch(failed)
    with tqdm(total=len(rows), initial=len(done), desc=dataset.name, unit="text", disable=quiet or None) as bar:
        for chunk in _chunks(missing):
            scored = _score_chunk(chunk, guardian, watch)
            store.append([_as_json(one) for one in scored])
            done.update((one.id, one) for one in scored)
            bar.update(len(chunk))
    watch.finish()
    ordered = [done[row.id] for row in dataset.rows]
    store.rewrite([_as_json(one) for one in ordered])
    return ordered


def decide(scores: Sequence[Score], policy: Policy, *, rail: Rail, guardian_id: str) -> list[Score]:
    """Return the scores with a policy's decisions: harmful is whatever it does not allow."""
    return [replace(one, harmful=policy.action(as_verdict(one, rail, guardian_id)) != "allow") for one in scores]


def as_verdict(score: Score, rail: Rail, guardian_id: str) -> Verdict:
    """Return the verdict that a score was made of, as far as the score holds it."""
    return Verdict(
        harmful=score.harmful,
        risk=score.risk,
        threshold=0.5 if score.threshold is None else score.threshold,
        hazards=score.hazards,
        hazard=score.hazard,
        rail=rail,
        guardian_id=guardian_id,
        truncated=score.truncated,
        members=tuple(
            Verdict(
                harmful=member.risk >= member.threshold,
                risk=member.risk,
                threshold=member.threshold,
                hazards=member.hazards,
                hazard=member.hazard,
                rail=rail,
                guardian_id=guardian_id,
                truncated=member.truncated,
            )
            for member in score.members
        ),
        incomplete=score.incomplete,
        stand_in=score.stand_in,
    )


class _Watch:
    """Tells a guardian that is broken from rows that cannot be scored."""

    def __init__(self, failed: Container[str] = ()) -> None:
        self._failed = failed
        self._in_a_row = 0
        self._answered = False
        self._first: GuardrailError | None = None

    def saw(self, row: EvalRow, outcome: CheckOutcome) -> None:
        if row.id in self._failed:
            return
        if isinstance(outcome, Verdict):
            self._in_a_row, self._answered = 0, True
        elif not isinstance(outcome, InputError):
            self._in_a_row += 1
            self._first = self._first or outcome
            if self._in_a_row >= _MOST_FAILURES_IN_A_ROW:
                raise outcome

    def finish(self) -> None:
        if self._first is not None and not self._answered:
            raise self._first


def _score_chunk(chunk: Sequence[EvalRow], guardian: GuardianProtocol, watch: _Watch) -> list[Score]:
    started = time.perf_counter()
    outcomes = guardian.check_many([row.check for row in chunk])
    # Rounded here, so that scores read back from disk equal those that were written.
    seconds = round((time.perf_counter() - started) / len(chunk), 6)
    if len(outcomes) != len(chunk):
        raise GuardianError(f"the guardian gave {len(outcomes)} answers to {len(chunk)} checks")
    scored = []
    for row, outcome in zip(chunk, outcomes, strict=True):
        watch.saw(row, outcome)
        scored.append(_score(row, outcome, seconds))
    return scored


def _score(row: EvalRow, outcome: CheckOutcome, seconds: float) -> Score:
    if not isinstance(outcome, Verdict):
        return Score(
            row.id, row.harmful, 1.0, True, expected=row.expected, seconds=seconds, error=type(outcome).__name__
        )
    return Score(
        id=row.id,
        label=row.harmful,
        risk=outcome.risk,
        harmful=outcome.harmful,
        threshold=outcome.threshold,
        hazard=outcome.hazard,
        hazards=_rounded(outcome.hazards),
        expected=row.expected,
        seconds=seconds,
        windows=outcome.windows,
        truncated=outcome.truncated,
        members=tuple(
            MemberScore(one.risk, one.threshold, one.hazard, _rounded(one.hazards), one.truncated)
            for one in outcome.members
        ),
        incomplete=outcome.incomplete,
        stand_in=outcome.stand_in,
    )


def _rounded(hazards: Mapping[str, float]) -> dict[str, float]:
    return {code: round(p, 6) for code, p in hazards.items()}


def _chunks(rows: Sequence[EvalRow]) -> Iterator[Sequence[EvalRow]]:
    for start in range(0, len(rows), _CHUNK):
        yield rows[start : start + _CHUNK]


def read_scores(folder: Path, name: str) -> list[Score]:
    """Return the scores that a run wrote for one file.

    Raises:
        ConfigError: there are none.
    """
    return [found for found in map(_from_json, ScoreStore.lines(folder, name)) if found is not None]


def _as_json(score: Score) -> dict[str, object]:
    line: dict[str, object] = {
        "id": score.id,
        "risk": score.risk,
        "hazard": score.hazard,
        "hazards": score.hazards,
        "harmful": score.harmful,
        "seconds": score.seconds,
        "windows": score.windows,
        "label": score.label,
        "threshold": score.threshold,
    }
    extras = {
        "expected": score.expected,
        "truncated": score.truncated,
        "members": [asdict(member) for member in score.members],
        "incomplete": score.incomplete,
        "stand_in": score.stand_in,
        "error": score.error,
    }
    return line | {key: value for key, value in extras.items() if value}


def _from_json(line: dict[str, object]) -> Score | None:
    """Return the score of a line; ``None`` where the line is not one of ours."""
    known = {key: value for key, value in line.items() if key in Score.__dataclass_fields__}
    try:
        return _SCORE.validate_python(known)
    except ValidationError:
        return None
