"""The part of the report on safeguard responses."""

from __future__ import annotations

from guardrail_plugin.evals import render
from guardrail_plugin.evals.response_figures import RESPONSE_METRICS, ResponseResult, ResponseSet


def markdown_responses(result: ResponseResult | None) -> list[str]:
    """Return the lines of the table's section; none where the run asked for no responses."""
    if result is None:
        return []
    header = ["set", "n", "distinct", "longest, tokens", *RESPONSE_METRICS.values()]
    rows = [_row(one) for one in (*result.sets, result.total)]
    notes = [f"- {line}" for line in response_caveats(result)]
    return ["## Safeguard responses", "", render.markdown_table(header, rows), "", *notes, ""]


def response_caveats(result: ResponseResult) -> list[str]:
    """Return what a reader of the figures must know."""
    every = "every harmful query" if result.wanted == "all" else f"at most {result.wanted} harmful queries of each file"
    return [
        f"Answered: {every} of the input rail, also those that the rail lets pass. Intervals: Wilson's for shares, "
        "the bootstrap's for tokens.",
        "Refusals and fit are read in English responses only; language counts where the query's language has written "
        "responses. Tokens are the guardian's own and count written responses too; in other scripts those take more.",
        f"Fit: the hazard is among the {result.fit_top} that a lexical classifier (naive Bayes over character n-grams, "
        "trained on the corpus' written responses and topics) finds likeliest. It finds "
        f"{100 * result.fit_ceiling:.1f} % of written responses fitting that it was not shown: read the figures "
        "against that.",
    ]


def _row(one: ResponseSet) -> list[str]:
    longest = render.ABSENT if one.longest is None else str(one.longest)
    cells = [render.with_interval(name, one.figures[name]) for name in RESPONSE_METRICS]
    return [one.name, str(one.n), str(one.distinct), longest, *cells]
