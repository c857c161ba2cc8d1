"""Two runs side by side: the difference of every figure, with its interval, paired by row id."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.verdict import Rail
from guardrail_plugin.evals import render
from guardrail_plugin.evals.bootstrap import Floats, interval, resamples, statistics
from guardrail_plugin.evals.metrics import LOWER_IS_BETTER, RESAMPLES, SEED, Figure, Sample, measure
from guardrail_plugin.evals.report import page, write_text
from guardrail_plugin.evals.results import RESULTS_FILE
from guardrail_plugin.evals.run import SCORES_FOLDER
from guardrail_plugin.evals.score import Score, read_scores
from guardrail_plugin.evals.store import ScoreStore

COMPARED = ("f1", "precision", "recall", "auprc", "auroc", "fpr", "recall_at_fpr_1", "recall_at_fpr_5", "ece")


class _File(BaseModel):
    model_config = ConfigDict(frozen=True)
    name: str
    rail: Rail
    n: int
    fingerprint: str


class _Run(BaseModel):
    model_config = ConfigDict(frozen=True)
    guardian: str
    policy: str | None
    files: tuple[_File, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """One metric of two runs.

    Attributes:
        difference: B minus A over the same rows, with the interval of the paired bootstrap.
        better: whether B is better: ``None`` where the interval holds zero, or nothing is known.
    """

    metric: str
    a: Figure
    b: Figure
    difference: Figure
    better: bool | None


@dataclass(frozen=True, slots=True)
class SetComparison:
    """One set of both runs. ``n`` rows were scored by both."""

    name: str
    rail: Rail
    n: int
    harmful: int
    changes: Sequence[Change]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs. ``only_a`` and ``only_b`` name sets that the other run does not have."""

    a: str
    b: str
    seed: int
    resamples: int
    sets: Sequence[SetComparison]
    only_a: Sequence[str]
    only_b: Sequence[str]


def compare_runs(
    run_a: Path, run_b: Path, *, out: Path | None = None, count: int = RESAMPLES, seed: int = SEED
) -> Comparison:
    """Compare two folders that ``evaluate`` wrote; with ``out`` also write ``compare.json``, ``.md`` and ``.html``.

    Raises:
        ConfigError: a folder is no run, a policy decided in one, a set was made from different files, or the runs
            share no set.
    """
    first, second = _read(run_a), _read(run_b)
    for run, folder in ((first, run_a), (second, run_b)):
        if run.policy is not None:  # scores files hold the guardian's decisions, so the policy's would be ignored
            raise ConfigError(f"{folder}: policy {run.policy!r} decided; runs are compared without one")
    names = {file.name: file for file in first.files}
    shared = [file for file in second.files if file.name in names]
    if not shared:
        raise ConfigError(f"{run_a} and {run_b} have no set in common")
    comparison = Comparison(
        a=first.guardian,
        b=second.guardian,
        seed=seed,
        resamples=count,
        sets=[
            _compare_set((first, run_a, names[file.name]), (second, run_b, file), count=count, seed=seed)
            for file in shared
        ],
        only_a=sorted(names.keys() - {file.name for file in second.files}),
        only_b=sorted({file.name for file in second.files} - names.keys()),
    )
    if out is not None:
        _write(comparison, out)
    return comparison


def markdown(comparison: Comparison) -> str:
    """Return a table with one row per set and metric that exists."""
    rows = [
        [
            one.name,
            change.metric,
            str(one.n),
            render.figure_value(change.metric, change.a),
            render.figure_value(change.metric, change.b),
            difference_text(change),
            {True: "better", False: "worse", None: ""}[change.better],
        ]
        for one in comparison.sets
        for change in one.changes
    ]
    header = ["set", "metric", "n", f"A: {comparison.a}", f"B: {comparison.b}", "B − A (95 %)", "B is"]
    left_out = [
        f"- only in {run}: {', '.join(names)}"
        for run, names in (("A", comparison.only_a), ("B", comparison.only_b))
        if names
    ]
    note = f"Paired by id; {comparison.resamples} resamples, seed {comparison.seed}."
    return "\n".join([render.markdown_table(header, rows), "", note, *left_out]) + "\n"


def difference_text(change: Change) -> str:
    """Return the difference with its sign and interval."""
    gap = change.difference
    if gap.value is None or gap.low is None or gap.high is None:
        return render.ABSENT
    low, high = (render.signed(change.metric, bound).removesuffix(" pp") for bound in (gap.low, gap.high))
    return f"{render.signed(change.metric, gap.value)} ({low} to {high})"


def _read(folder: Path) -> _Run:
    path = folder / RESULTS_FILE
    try:
        return _Run(**json.loads(path.read_text(encoding="utf-8")))
    except OSError:
        raise ConfigError(f"cannot read {path}: {folder} is not an --out of guardrail evaluate") from None
    except (ValueError, TypeError, ValidationError):
        raise ConfigError(f"{path} is not a result of guardrail evaluate") from None


def _compare_set(
    side_a: tuple[_Run, Path, _File], side_b: tuple[_Run, Path, _File], *, count: int, seed: int
) -> SetComparison:
    file = side_b[2]
    if side_a[2].fingerprint != file.fingerprint:
        raise ConfigError(f"{file.name}: the two runs scored different files, or other parts of one")
    by_id = [_scores(*side) for side in (side_a, side_b)]
    ids = sorted(by_id[0].keys() & by_id[1].keys())
    if not ids:
        raise ConfigError(f"{file.name}: the two runs have no row in common")
    a, b = ([scores[key] for key in ids] for scores in by_id)
    return SetComparison(
        name=file.name,
        rail=file.rail,
        n=len(ids),
        harmful=sum(one.label for one in a),
        changes=changes(a, b, count=count, seed=seed),
    )


def _scores(run: _Run, folder: Path, file: _File) -> Mapping[str, Score]:
    """Return the scores that a run's results were made of, by row id.

    Raises:
        ConfigError: they are gone: another evaluation was begun in the folder, and did not come to its results.
    """
    scores = {one.id: one for one in read_scores(folder / SCORES_FOLDER, file.name)}
    made_of = ScoreStore.made_of(folder / SCORES_FOLDER, file.name)
    if made_of != (run.guardian, file.fingerprint) or len(scores) != file.n:
        raise ConfigError(
            f"{folder}: the scores of {file.name} are not those that {RESULTS_FILE} was made of; an evaluation "
            "that was begun there later was cut short. Run it to its end"
        )
    return scores


def changes(a: Sequence[Score], b: Sequence[Score], *, count: int = RESAMPLES, seed: int = SEED) -> list[Change]:
    """Compare two lists of scores of the same rows, in the same order."""
    figures = [measure(scores, count=count, seed=seed) for scores in (a, b)]
    gaps = _gaps(Sample.of(a), Sample.of(b), count=count, seed=seed)
    found = []
    for name in COMPARED:
        first, second = figures[0][name], figures[1][name]
        if first.value is None and second.value is None:
            continue
        bounds = None
        if first.value is not None and second.value is not None:
            bounds = interval(gaps[name])
        found.append(_change(name, first, second, bounds=bounds))
    return found


def _gaps(a: Sample, b: Sample, *, count: int, seed: int) -> dict[str, Floats]:
    """Return B minus A per resample, the same rows drawn for both: name → (count,)."""
    first, second = a.prepared, b.prepared
    blocks = []
    with np.errstate(invalid="ignore", divide="ignore"):  # a class that is absent divides by zero; its metric is NaN
        for weights in resamples(a.strata, count=count, seed=seed):
            left, right = statistics(first, weights), statistics(second, weights)
            blocks.append({name: right[name] - left[name] for name in COMPARED})
    return {name: np.concatenate([block[name] for block in blocks]) for name in COMPARED}


def _change(name: str, a: Figure, b: Figure, *, bounds: tuple[float, float] | None) -> Change:
    if bounds is None or a.value is None or b.value is None:
        return Change(name, a, b, Figure(None), None)
    low, high = bounds
    better = None if low <= 0 <= high else (high < 0) == (name in LOWER_IS_BETTER)
    return Change(name, a, b, Figure(b.value - a.value, low, high, a.n), better)


def _write(comparison: Comparison, out: Path) -> None:
    write_text(out / "compare.json", json.dumps(asdict(comparison), indent=1, allow_nan=False) + "\n")
    write_text(out / "compare.md", markdown(comparison))
    write_text(out / "compare.html", page("compare.html.j2", comparison=comparison, difference=difference_text))
