"""``guardrail evaluate``: measure a guardian on labelled files, or compare two measurements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from guardrail_plugin.cli.options import DeviceOption, DtypeOption, PolicyOption, rail_named
from guardrail_plugin.cli.reporting import reports_errors
from guardrail_plugin.cli.session import open_session
from guardrail_plugin.core.errors import ConfigError

if TYPE_CHECKING:
    from guardrail_plugin.core.policy import Policy
    from guardrail_plugin.evals.compare import Comparison
    from guardrail_plugin.evals.dataset import EvalFile
    from guardrail_plugin.evals.response_figures import ResponseResult
    from guardrail_plugin.evals.responses import Wanted
    from guardrail_plugin.evals.results import RunResult
    from guardrail_plugin.guardian.protocol import GuardianProtocol

_PREFIX = "baseline:"
_COMPARE_TAKES = frozenset({"compare", "out", "resamples", "seed", "quiet"})
_SHOWN = {"f1": "F1", "auprc": "AUPRC", "recall": "recall", "fpr": "FPR", "recall_at_fpr_1": "R@1%FPR"}
_SHOWN_RESPONSES = {
    "refuses": "refuses",
    "flagged": "flagged",
    "by_model": "by model",
    "tokens_median": "tokens",
    "fits_named": "fits",
}

GuardianOrBaselineOption = Annotated[
    str | None,
    typer.Option(
        "--guardian",
        envvar="GUARDRAIL_GUARDIAN",
        metavar="NAME",
        help="A guardian as in: guardrail check; or baseline:tfidf, baseline:minilm, baseline:zero-shot[:MODEL]. "
        "Default: the embedded one.",
    ),
]
TrainOption = Annotated[
    list[str] | None,
    typer.Option("--train", metavar="DIR|FILE[:RAIL]", help="What a baseline learns from, less the suite."),
]


@reports_errors
def evaluate(
    context: typer.Context,
    *,
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE[:RAIL]", help="Labelled JSONL files.", show_default=False)
    ] = None,
    suite: Annotated[
        Path | None, typer.Option("--suite", metavar="DIR", help="Folder that holds the files of the standard suite.")
    ] = None,
    development: Annotated[
        bool, typer.Option("--development", help="Of --suite, the files on which choices are made instead.")
    ] = False,
    guardian: GuardianOrBaselineOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for report, table, results and scores.")
    ] = None,
    rail: Annotated[
        str | None, typer.Option("--rail", metavar="RAIL", help="Rail of the files that name none themselves.")
    ] = None,
    policy: PolicyOption = None,
    train: TrainOption = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--compare", metavar="A B", help="Compare two --out folders.", show_default=False),
    ] = None,
    show_text: Annotated[
        bool, typer.Option("--show-text", help="Quote the worst misses, queries and responses in the HTML report.")
    ] = False,
    responses: Annotated[
        str | None,
        typer.Option(
            "--responses", metavar="N|all", help="Also measure safeguard responses to N harmful queries per file."
        ),
    ] = None,
    resamples: Annotated[int, typer.Option("--resamples", min=100, metavar="N", help="Of the bootstrap.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of the bootstrap.")] = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Measure a guardian on labelled JSONL files ("text", "harmful": true or false), with 95 % intervals.

    Rows with "response" and "response_harmful" are judged as answers. FILE:tool_output judges a file's texts as tool
    outputs. Writes results.json, table.md, report.html and scores/ into --out; no file but the report, and that only
    with --show-text, holds any text. A run that is cut short goes on where it stopped.
    """
    console = Console(highlight=False)
    if compare is not None:
        _refuse_beside_compare(context)
        _compare(console, compare, out=out, resamples=resamples, seed=seed)
        return
    if out is None:
        raise ConfigError("name a folder for the report with --out")
    if development and suite is None:
        raise ConfigError("--development is a choice of the suite's files: name their folder with --suite")
    from guardrail_plugin.evals.dataset import EvalFile
    from guardrail_plugin.evals.run import Options
    from guardrail_plugin.evals.run import evaluate as run
    from guardrail_plugin.evals.suite import load_suite

    default = None if rail is None else rail_named(rail)
    chosen = [EvalFile.parse(file, rail=default) for file in files or []] + (
        [] if suite is None else load_suite(suite, development=development)
    )
    if not chosen:
        raise ConfigError("nothing to evaluate on: name JSONL files, or a data folder with --suite")
    wanted = None if responses is None else _wanted(responses)
    opened = open_guardian(
        guardian, policy=policy, train=train or [], measured=chosen, device=device, dtype=dtype, quiet=quiet
    )
    with opened as (judge, rules):
        options = Options(
            policy=rules,
            show_text=show_text,
            resamples=resamples,
            seed=seed,
            quiet=quiet,
            responses=wanted,
        )
        result = run(judge, chosen, out=out, options=options)
    _print(console, result, out=out)


def _wanted(responses: str) -> Wanted:
    if responses == "all":
        return "all"
    if responses.isdecimal() and int(responses) > 0:
        return int(responses)
    raise typer.BadParameter(f"--responses takes a number of queries, or all, got {responses!r}")


def register(app: typer.Typer) -> None:
    """Add ``evaluate`` to an app."""
    app.command()(evaluate)


@contextmanager
def open_guardian(
    name: str | None,
    *,
    policy: Path | None = None,
    train: Sequence[str] = (),
    measured: Sequence[EvalFile] = (),
    device: str | None,
    quiet: bool,
    dtype: str = "auto",
) -> Iterator[tuple[GuardianProtocol, Policy | None]]:
    """Open a guardian or a baseline on a pool, with the policy if there is one; close the pool at the end.

    A baseline learns from no row of what it is measured on.

    Raises:
        GuardrailError: weights, an extra, training rows or a sound policy file are missing.
    """
    if name is None or not name.startswith(_PREFIX):
        if train:
            raise ConfigError("--train is what a baseline learns from; a guardian is trained with: guardrail train")
        with open_session(name, policy=policy, device=device, dtype=dtype) as session:
            yield session.guardian, session.policy
        return
    if dtype != "auto":
        raise ConfigError("--dtype is for guardians; a baseline is measured as it was published")
    from guardrail_plugin.core.policy import Policy
    from guardrail_plugin.evals.baselines import open_baseline
    from guardrail_plugin.pool import InferencePool

    rules = None if policy is None else Policy.from_toml(policy)
    with InferencePool(devices=None if device is None else [device], on_full="wait") as pool:
        try:
            judge = open_baseline(name, train=train, measured=measured, pool=pool, device=device, quiet=quiet)
            yield judge, rules
        except BaseException:
            pool.close(drain_s=0.0)  # whatever is still queued, nobody will read
            raise


def _refuse_beside_compare(context: typer.Context) -> None:
    """Refuse what a comparison has no use for; an environment variable is no request.

    Raises:
        ConfigError: it was asked for on the command line.
    """
    named = {parameter.name: parameter.opts[0] for parameter in context.command.params if parameter.name is not None}
    given = []
    for name, option in named.items():
        source = context.get_parameter_source(name)
        if name not in _COMPARE_TAKES and source is not None and source.name == "COMMANDLINE":
            given.append(option if option.startswith("-") else option.upper())
    if given:
        raise ConfigError(f"--compare measures nothing, it reads two --out folders: leave out {', '.join(given)}")


def _compare(console: Console, runs: tuple[Path, Path], *, out: Path | None, resamples: int, seed: int) -> None:
    from guardrail_plugin.evals.compare import compare_runs

    comparison = compare_runs(*runs, out=out, count=resamples, seed=seed)
    _print_comparison(console, comparison)
    if out is not None:
        console.print(f"Comparison: {out / 'compare.html'}", soft_wrap=True, markup=False)


def _print(console: Console, result: RunResult, *, out: Path) -> None:
    from guardrail_plugin.evals.render import figure_value
    from guardrail_plugin.evals.report import REPORT_FILE, TABLE_FILE, caveats

    table = _table(Text(f"Guardian {result.guardian}"), left=("set",), right=("n", *_SHOWN.values()))
    for one in (*result.files, *result.totals):
        table.add_row(Text(one.name), str(one.n), *(figure_value(name, one.metrics[name]) for name in _SHOWN))
    console.print(table)
    if result.responses is not None:
        console.print(_responses_table(result.responses))
    for line in caveats(result):
        console.print(line, markup=False)
    console.print(f"With 95 % intervals: {out / TABLE_FILE}", soft_wrap=True, markup=False)
    console.print(f"Report: {out / REPORT_FILE}", soft_wrap=True, markup=False)


def _responses_table(result: ResponseResult) -> Table:
    from guardrail_plugin.evals.render import figure_value

    table = _table(Text("\nSafeguard responses"), left=("set",), right=("n", "distinct", *_SHOWN_RESPONSES.values()))
    for one in (*result.sets, result.total):
        values = (figure_value(name, one.figures[name]) for name in _SHOWN_RESPONSES)
        table.add_row(Text(one.name), str(one.n), str(one.distinct), *values)
    return table


def _print_comparison(console: Console, comparison: Comparison) -> None:
    from guardrail_plugin.evals.compare import difference_text
    from guardrail_plugin.evals.metrics import METRICS
    from guardrail_plugin.evals.render import figure_value

    console.print(f"A: {comparison.a}\nB: {comparison.b}\nB - A over the same rows, 95 % interval", markup=False)
    words = {True: "better", False: "worse", None: ""}
    for one in comparison.sets:
        title = Text(f"\n{one.name}, {one.n} rows")
        table = _table(title, left=("metric",), right=("A", "B", "B - A", "B is"))
        for change in one.changes:
            values = [figure_value(change.metric, figure) for figure in (change.a, change.b)]
            table.add_row(METRICS[change.metric], *values, difference_text(change), words[change.better])
        console.print(table)


def _table(title: Text, *, left: Sequence[str], right: Sequence[str]) -> Table:
    """Return a table without lines: it fits 80 columns and pastes well."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in left:
        table.add_column(heading, overflow="fold")
    for heading in right:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
