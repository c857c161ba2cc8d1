"""Numbers as people read them, the same in Markdown and HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from guardrail_plugin.evals.metrics import Figure
from guardrail_plugin.evals.response_figures import RESPONSE_METRICS

ABSENT = "–"
_TOKENS = frozenset({"tokens_median", "tokens_p95"})
_PER_CENT = frozenset({"recall", "fpr", "recall_at_fpr_1", "recall_at_fpr_5", "hazard_accuracy"}) | (
    frozenset(RESPONSE_METRICS) - _TOKENS
)


def figure_value(name: str, figure: Figure) -> str:
    """Return a metric's value: rates in per cent, scores with three digits, seconds with unit."""
    return ABSENT if figure.value is None else number(name, figure.value)


def figure_interval(name: str, figure: Figure) -> str:
    """Return the interval without brackets, or nothing."""
    if figure.value is None or figure.low is None or figure.high is None:
        return ""
    if name in _PER_CENT:
        return f"{100 * figure.low:.1f}–{100 * figure.high:.1f}"
    return f"{number(name, figure.low)}–{number(name, figure.high)}"


def with_interval(name: str, figure: Figure) -> str:
    """Return a metric's value, its interval in brackets."""
    interval = figure_interval(name, figure)
    return figure_value(name, figure) + (f" ({interval})" if interval else "")


def number(name: str, value: float) -> str:
    """Return one number of a metric."""
    if name == "seconds_per_text":
        return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"
    if name in _TOKENS:
        return f"{value:.0f}"
    return f"{100 * value:.1f} %" if name in _PER_CENT else f"{value:.3f}"


def signed(name: str, value: float) -> str:
    """Return a difference of two values of a metric, with its sign; rates in percentage points."""
    if name == "seconds_per_text":
        return f"{value * 1000:+.1f} ms"
    return f"{100 * value:+.1f} pp" if name in _PER_CENT else f"{value:+.3f}"


def percent(share: float | None) -> str:
    """Return a share in per cent."""
    return ABSENT if share is None else f"{100 * share:.1f} %"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a GitHub-flavoured table; the first column is left-aligned, the others right."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|--:" * (len(header) - 1) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)
