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
from guardrail_plugin.evals.response_figures import ResponseResult, response_result
from guardrail_plugin.evals.responses import RESPONSES_FOLDER, Wanted, answer, harmful_rows, texts_of
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
        responses: how many harmful queries of each input-rail file the guardian answers with a safeguard response;
            ``None``: none.
    """

    policy: Policy | None = None
    show_text: bool = False
    resamples: int = RESAMPLES
    seed: int = SEED
    quiet: bool = False
    responses: Wanted | None = None


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
    if chosen.responses is not None and not any(_answerable(data) for data in datasets):
        raise ConfigError("responses are written to harmful queries of the input rail, and these files hold none")
    scored = [Scored(data, tuple(_scores(data, guardian, chosen, folder=out / SCORES_FOLDER))) for data in datasets]
    responses, texts = _responses(scored, guardian, chosen, out=out)
    result = RunResult(
        guardian=guardian.id,
        library=__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        policy=None if chosen.policy is None else chosen.policy.version,
        seed=chosen.seed,
        resamples=chosen.resamples,
        files=[file_result(one, count=chosen.resamples, seed=chosen.seed, policy=chosen.policy) for one in scored],
        totals=totals(scored, count=chosen.resamples, seed=chosen.seed, policy=chosen.policy),
        responses=responses,
    )
    write_reports(result, scored, folder=out, show_text=chosen.show_text, responses=texts)
    return result


def _answerable(data: Dataset) -> bool:
    return data.rail == "input" and any(row.harmful for row in data.rows)


def _responses(
    scored: Sequence[Scored], guardian: GuardianProtocol, options: Options, *, out: Path
) -> tuple[ResponseResult | None, dict[tuple[str, str], str]]:
    """Return the figures, and the responses of the sample by set and row id, if the report may show them."""
    if options.responses is None:
        return None, {}
    asked = [one for one in scored if _answerable(one.dataset)]
    folder, seed, quiet = out / RESPONSES_FOLDER, options.seed, options.quiet
    answered = [answer(one, guardian, wanted=options.responses, folder=folder, seed=seed, quiet=quiet) for one in asked]
    result = response_result(answered, wanted=str(options.responses), count=options.resamples, seed=seed)
    texts: dict[tuple[str, str], str] = {}
    for one, answers in zip(asked, answered, strict=True) if options.show_text else ():
        wanted = {key for name, key in result.sample if name == one.dataset.name}
        pairs = [pair for pair in harmful_rows(one, wanted="all", seed=seed) if pair[0].id in wanted]
        heard = texts_of(pairs, guardian, known={key: answers.texts[key] for key in wanted & answers.texts.keys()})
        texts |= {(one.dataset.name, key): text for key, text in heard.items()}
    return result, texts


def _scores(data: Dataset, guardian: GuardianProtocol, options: Options, *, folder: Path) -> list[Score]:
    scores = score(data, guardian, folder=folder, quiet=options.quiet)
    if options.policy is None:
        return scores
    return decide(scores, options.policy, rail=data.rail, guardian_id=guardian.id)
