"""``results.json``, ``table.md`` and ``report.html``: one self-contained page that fetches nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from guardrail_plugin.core.errors import ConfigError, MissingDependencyError
from guardrail_plugin.evals import published, render
from guardrail_plugin.evals.metrics import METRICS, Sample
from guardrail_plugin.evals.plots import set_figure, svg, sweep_figure
from guardrail_plugin.evals.response_figures import RESPONSE_METRICS
from guardrail_plugin.evals.response_report import markdown_responses, response_caveats
from guardrail_plugin.evals.results import RunResult, Scored, SetResult, pool

if TYPE_CHECKING:
    from jinja2 import Environment

TABLE_FILE = "table.md"
REPORT_FILE = "report.html"
PAGES = Path(__file__).parent / "pages"
_LONGEST_SHOWN_TEXT = 400


@dataclass(frozen=True, slots=True)
class Plots:
    """The figures of one set, as SVG. ``curves`` is empty where only one label occurs."""

    result: SetResult
    curves: str = field(repr=False)
    sweep: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Kind:
    """Sets that define the same metrics, for one table."""

    heading: str
    caption: str
    columns: list[tuple[str, str]]
    sets: list[SetResult]
    totals: list[SetResult]


def write_reports(
    result: RunResult,
    scored: Sequence[Scored],
    *,
    folder: Path,
    show_text: bool,
    responses: Mapping[tuple[str, str], str] | None = None,
) -> None:
    """Write the three files.

    Args:
        result: the figures.
        scored: the rows behind ``result.files``, in the same order.
        folder: created if it is not there.
        show_text: whether the page quotes the texts of the worst misses.
        responses: safeguard responses by (set, id), for the sample beside their queries; only with ``show_text``.

    Raises:
        ConfigError: the folder cannot be written.
        MissingDependencyError: the extra ``evaluate`` is not installed.
    """
    result.write(folder)
    write_text(folder / TABLE_FILE, markdown(result))
    texts = _texts(scored) if show_text else None
    write_text(folder / REPORT_FILE, html(result, scored, texts=texts, responses=responses or {}))


def markdown(result: RunResult) -> str:
    """Return the table of all files and totals, intervals in brackets, with what was left out below it."""
    header = ["set", "rail", "n", "harmful", *METRICS.values()]
    rows = [_markdown_row(one) for one in (*result.files, *result.totals)]
    lines = [
        f"# Guardian evaluation: {result.guardian}",
        "",
        f"guardrail-plugin {result.library}, {result.created}, decided by "
        + (f"policy {result.policy}" if result.policy else "the guardian's own thresholds")
        + f". 95 % intervals in brackets ({result.resamples} resamples, seed {result.seed}; Wilson for plain rates).",
        "",
        render.markdown_table(header, rows),
        "",
        *(f"- {line}" for line in caveats(result)),
        "",
        *markdown_responses(result.responses),
        "## Published figures (not measured here)",
        "",
        published.NOTE,
        "",
        _markdown_published(),
        "",
        *(f"- {key}: {text}" for key, text in published.SOURCES.items()),
    ]
    return "\n".join(lines) + "\n"


def caveats(result: RunResult) -> list[str]:
    """Return what a reader of the table must know: rows without label, verdict or full reading; how totals count."""
    lines = []
    for one in result.files:
        parts = [
            f"{_rows(one.skipped)} without a label left out" if one.skipped else "",
            f"{_rows(one.failed)} without a verdict, counted as found harmful" if one.failed else "",
            f"{_rows(one.truncated)} read in part only" if one.truncated else "",
            f"{_rows(one.partial)} judged without one of the guardians, which a later run asks again"
            if one.partial
            else "",
        ]
        if any(parts):
            lines.append(f"{one.name}: {'; '.join(part for part in parts if part)}.")
    for total in result.totals:
        rows = sum(one.n for one in result.files if one.rail == total.rail)
        if rows > total.n:
            again = "texts that occur more than once count once"
            lines.append(f"{total.name}: {total.n} distinct texts of {rows} rows; {again}.")
        if total.contradictory:
            both = "1 text is" if total.contradictory == 1 else f"{total.contradictory} texts are"
            lines.append(f"{total.name}: {both} labelled both harmful and harmless; the first label counts in totals.")
    lines.append(f"{render.ABSENT} marks a metric that these rows do not define.")
    return lines


def html(
    result: RunResult,
    scored: Sequence[Scored],
    *,
    texts: Mapping[tuple[str, str], str] | None,
    responses: Mapping[tuple[str, str], str],
) -> str:
    """Return the page. ``texts`` maps (set, id) to what is shown beside a miss; ``None`` shows no text at all."""
    return page(
        "report.html.j2",
        result=result,
        kinds=_kinds(result),
        figures=[_plots(one, pair) for one, pair in zip(result.files, scored, strict=True) if one.mixed],
        totals=_total_plots(result, scored),
        texts=texts,
        responses=responses if texts is not None else {},
        response_headings=RESPONSE_METRICS,
        response_caveats=[] if result.responses is None else response_caveats(result.responses),
        caveats=caveats(result),
        published=published,
        measured=[_f1_per_cent(result, name) for name in published.SETS],
    )


def page(template: str, **values: object) -> str:
    """Render one of the pages in ``pages/`` with the functions that they share."""
    environment = _environment()
    environment.globals.update(
        headings=METRICS,
        value=render.figure_value,
        interval=render.figure_interval,
        number=render.number,
        signed=render.signed,
        percent=render.percent,
        style=(PAGES / "style.css").read_text(encoding="utf-8"),
    )
    return environment.get_template(template).render(**values)


def write_text(path: Path, text: str) -> None:
    """Write a file; a lone surrogate is written as an escape.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def _environment() -> Environment:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise MissingDependencyError("jinja2", extra="evaluate") from None
    # Everything is escaped unless a template says otherwise, which only our own SVG and CSS do.
    return Environment(
        loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _f1_per_cent(result: RunResult, name: str) -> float | None:
    """Return this run's F1 on a set, as papers give it: on harmful rows alone there are no false positives."""
    for one in result.files:
        if one.name == name:
            f1, recall = one.metrics["f1"].value, one.metrics["recall"].value
            if f1 is None and recall is not None:
                f1 = 2 * recall / (1 + recall)
            return None if f1 is None else 100 * f1
    return None


def _kinds(result: RunResult) -> list[Kind]:
    every = list(METRICS.items())
    plain = {"hazard_accuracy", "seconds_per_text"}
    found = [column for column in every if column[0] in plain | {"recall"}]
    flagged = [column for column in every if column[0] in plain - {"hazard_accuracy"} | {"fpr"}]
    one_label = [one for one in result.files if not one.mixed]
    return [
        Kind(
            "Sets with both labels, and totals",
            "Intervals beneath the values. FPR, ECE and time: lower is better; the others: higher.",
            every,
            [one for one in result.files if one.mixed],
            list(result.totals),
        ),
        Kind(
            "Sets of harmful rows",
            "What share of harmful rows is found. Higher is better.",
            found,
            [one for one in one_label if one.harmful],
            [],
        ),
        Kind(
            "Sets of harmless rows",
            "What share of harmless rows is flagged (FPR). Lower is better.",
            flagged,
            [one for one in one_label if not one.harmful],
            [],
        ),
    ]


def _plots(result: SetResult, scored: Scored) -> Plots:
    sample = Sample.of(scored.scores)
    prefix = "".join(c if c.isalnum() else "-" for c in result.name)
    curves = ""
    if result.mixed:
        figure = set_figure(sample, result.reliability, threshold=result.threshold)
        curves = svg(figure, alt=_describe(result), prefix=f"set-{prefix}")
    sweep = sweep_figure(result.sweep, threshold=result.threshold)
    alt = f"{result.name}: recall and false-positive rate over the threshold; the numbers are in the table below."
    return Plots(result, curves, svg(sweep, alt=alt, prefix=f"sweep-{prefix}"))


def _total_plots(result: RunResult, scored: Sequence[Scored]) -> list[Plots]:
    return [
        _plots(total, pool([one for one in scored if one.dataset.rail == total.rail])[0]) for total in result.totals
    ]


def _describe(result: SetResult) -> str:
    shown = {name: render.figure_value(name, figure) for name, figure in result.metrics.items()}
    return (
        f"Four charts for {result.name}, {result.n} rows, {result.harmful} harmful. "
        f"Precision over recall: area {shown['auprc']}. ROC: area {shown['auroc']}; it acts at recall "
        f"{shown['recall']} and false-positive rate {shown['fpr']}. Calibration: expected error {shown['ece']}. "
        "Histogram of the risk of harmful and harmless rows."
    )


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _texts(scored: Sequence[Scored]) -> dict[tuple[str, str], str]:
    return {
        (one.dataset.name, row.id): " ".join(row.check.text[:_LONGEST_SHOWN_TEXT].split())
        for one in scored
        for row in one.dataset.rows
    }


def _markdown_row(one: SetResult) -> list[str]:
    cells = [render.with_interval(name, one.metrics[name]) for name in METRICS]
    return [one.name, one.rail, str(one.n), str(one.harmful), *cells]


def _markdown_published() -> str:
    rows = [
        [
            f"{one.guardian} ({one.source})",
            one.parameters,
            *(render.ABSENT if f is None else f"{f:.1f}" for f in one.f1),
        ]
        for one in published.PUBLISHED
    ]
    return render.markdown_table(["guardian (source)", "parameters", *published.SETS.values()], rows)
