"""Evaluate a guardian: score every file, measure, write the reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from guardrail_plugin._version import __version__
from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.evals.dataset import Dataset, EvalFile, load
from guardrail_plugin.evals.metrics import RESAMPLES, SEED
from guardrail_plugin.evals.report import write_reports
from guardrail_plugin.evals.results import RunResult, Scored, file_result, totals
from guardrail_plugin.evals.score import Score, decide, score
from guardrail_plugin.evals.suite import with_unique_names
from guardrail_plugin.guardian.protocol import GuardianProtocol

SCORES_FOLDER = "scores"


@dataclass(frozen=True, slots=True)
class Options:
    """How to evaluate.

    Attributes:
        policy: decides instead of the guardian's own thresholds.
        show_text: print the texts of the worst misses in the HTML report. No other file ever holds text.
        resamples, seed: of the bootstrap.
        quiet: no progress bars.
    """

    policy: Policy | None = None
    show_text: bool = False
    resamples: int = RESAMPLES
    seed: int = SEED
    quiet: bool = False


def evaluate(
    guardian: GuardianProtocol, files: Sequence[EvalFile], *, out: Path, options: Options | None = None
) -> RunResult:
    """Score the files, measure, and write ``results.json``, ``table.md``, ``report.html`` and ``scores/`` into ``out``.

    All files are read before the first text is scored, so a broken line costs no time.

    Raises:
        ConfigError: a file breaks the schema, none is given, or ``out`` cannot be written.
        MissingDependencyError: the extra ``evaluate`` is not installed.
        GuardrailError: the guardian itself is broken (see ``score``).
    """
    chosen = options or Options()
    if not files:
        raise ConfigError("no files to evaluate on: name JSONL files, or a data folder with --suite")
    datasets = [load(file) for file in with_unique_names(files)]
    scored = [Scored(data, tuple(_scores(data, guardian, chosen, folder=out / SCORES_FOLDER))) for data in datasets]
    result = RunResult(
        guardian=guardian.id,
        library=__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        policy=None if chosen.policy is None else chosen.policy.version,
        seed=chosen.seed,
        resamples=chosen.resamples,
        files=[file_result(one, count=chosen.resamples, seed=chosen.seed) for one in scored],
        totals=totals(scored, count=chosen.resamples, seed=chosen.seed),
    )
    write_reports(result, scored, folder=out, show_text=chosen.show_text)
    return result


def _scores(data: Dataset, guardian: GuardianProtocol, options: Options, *, folder: Path) -> list[Score]:
    scores = score(data, guardian, folder=folder, quiet=options.quiet)
    if options.policy is None:
        return scores
    return decide(scores, options.policy, rail=data.rail, guardian_id=guardian.id)
