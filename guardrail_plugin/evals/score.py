"""Run a guardian over a dataset, in chunks, with a progress bar; what was scored before is not scored again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
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
class Score:
    """What a guardian said of one row. Holds no text.

    Attributes:
        label: the row's label.
        risk: the guardian's risk; 1 where it gave no verdict, since the rail then blocks.
        harmful: the decision at the guardian's threshold, or the policy's; true where it gave no verdict.
        expected: the row's hazard code, where source and category settle it.
        seconds: wall time of the row's chunk divided by the chunk's rows: throughput, not the latency of one call.
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
    error: str | None = None


_SCORE = TypeAdapter(Score)


def score(
    dataset: Dataset, guardian: GuardianProtocol, *, folder: Path | None = None, quiet: bool = False
) -> list[Score]:
    """Return one score per row, in the order of the rows.

    With ``folder`` each chunk is written to ``folder/NAME.jsonl`` as it comes; a run that was cut short goes on where
    it stopped, as long as guardian, its settings and file are the same. Rows without a verdict are asked again.

    Raises:
        GuardrailError: the guardian fails for 16 rows in a row, or for all: then it is the guardian that is broken,
            and calling every row harmful would measure nothing.
        ConfigError: the scores file cannot be written.
    """
    store = ScoreStore(
        folder,
        name=dataset.name,
        guardian=guardian.id,
        fingerprint=dataset.fingerprint,
        settings=judging_settings(guardian),
    )
    done = {found.id: found for found in map(_from_json, store.read()) if found is not None and found.error is None}
    rows = {row.id: row for row in dataset.rows}
    done = {key: found for key, found in done.items() if key in rows}
    store.rewrite([_as_json(found) for found in done.values()])
    missing = [row for row in dataset.rows if row.id not in done]
    # Texts of like length share a batch without padding. The longest come first: memory runs out early or never.
    missing.sort(key=lambda row: len(row.check.text), reverse=True)
    watch = _Watch()
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
    )


class _Watch:
    """Tells a guardian that is broken from rows that cannot be scored."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._answered = False
        self._first: GuardrailError | None = None

    def saw(self, outcome: CheckOutcome) -> None:
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
        watch.saw(outcome)
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
        hazards={code: round(p, 6) for code, p in outcome.hazards.items()},
        expected=row.expected,
        seconds=seconds,
        windows=outcome.windows,
        truncated=outcome.truncated,
    )


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
    extras = {"expected": score.expected, "truncated": score.truncated or None, "error": score.error}
    return line | {key: value for key, value in extras.items() if value is not None}


def _from_json(line: dict[str, object]) -> Score | None:
    """Return the score of a line; ``None`` where the line is not one of ours."""
    known = {key: value for key, value in line.items() if key in Score.__dataclass_fields__}
    try:
        return _SCORE.validate_python(known)
    except ValidationError:
        return None
