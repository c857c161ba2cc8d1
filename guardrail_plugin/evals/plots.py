"""The report's figures, as inline SVG that follows the reader's light or dark theme."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np

from guardrail_plugin.core.errors import MissingDependencyError
from guardrail_plugin.evals.bootstrap import Floats
from guardrail_plugin.evals.breakdown import Bin, SweepPoint
from guardrail_plugin.evals.metrics import Sample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib knows no CSS: figures are drawn in these stand-ins, which the SVG then gives over to the style sheet.
INK, HARM, SAFE, FAINT = "#010101", "#020202", "#030303", "#040404"
_CSS_OF = {INK: "currentColor", HARM: "var(--harm)", SAFE: "var(--safe)", FAINT: "var(--line)"}
_CURVE_POINTS = 200
_STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and scaled
    "svg.hashsalt": "guardrail",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def set_figure(sample: Sample, bins: Sequence[Bin], *, threshold: float | None) -> Figure:
    """Draw one set with both labels: precision-recall, ROC, calibration, and the risks of the two classes."""
    fpr, recall, precision = _curves(sample)
    with _style():
        figure, axes = _canvas(width_in=12.0, columns=4)
        _precision_recall(axes[0], sample, recall=recall, precision=precision)
        _roc(axes[1], sample, fpr=fpr, recall=recall)
        _calibration(axes[2], bins)
        _histogram(axes[3], sample, threshold=threshold)
    return figure


def sweep_figure(points: Sequence[SweepPoint], *, threshold: float | None) -> Figure:
    """Draw recall and false-positive rate over the threshold."""
    at = [point.threshold for point in points]
    with _style():
        figure, [axis] = _canvas(width_in=5.2, columns=1)
        for label, colour, style, shares in (
            ("recall", HARM, "-", [point.recall for point in points]),
            ("false-positive rate", SAFE, "--", [point.fpr for point in points]),
        ):
            if any(share is not None for share in shares):
                heights = [np.nan if share is None else share for share in shares]
                axis.plot(at, heights, style, color=colour, label=label)
        _mark(axis, threshold)
        axis.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="threshold", ylabel="share of rows", title="Threshold sweep")
        figure.legend(loc="outside lower center", ncols=3)
    return figure


def svg(figure: Figure, *, alt: str, prefix: str) -> str:
    """Return a figure as an ``<svg>`` element that carries its own description.

    Args:
        figure: drawn by this module.
        alt: what a reader who cannot see it should know. Escaped here.
        prefix: unique in the page; keeps the ids of several figures apart.
    """
    stream = io.StringIO()
    with _style():
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)[\")]", text))
    text = re.sub(r' id="([\w.-]+)"', lambda found: f' id="{prefix}-{found[1]}"' if found[1] in used else "", text)
    text = re.sub(r"(url\(#|href=\"#)([\w-]+)", rf"\g<1>{prefix}-\g<2>", text)
    for stand_in, css in _CSS_OF.items():
        text = text.replace(stand_in, css)
    text = text.replace("'DejaVu Sans'", "system-ui")
    opening, rest = text.split(">", 1)
    # The page decides how large it is; the viewBox keeps its shape.
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    return f"{opening}>{rest}".replace("<svg ", f'<svg role="img" aria-label="{_escaped(alt)}" ', 1)


def _style() -> AbstractContextManager[None]:
    try:
        import matplotlib as mpl
    except ImportError:
        raise MissingDependencyError("matplotlib", extra="evaluate") from None
    style: AbstractContextManager[None] = mpl.rc_context(_STYLE)
    return style


def _canvas(*, width_in: float, columns: int) -> tuple[Figure, list[Axes]]:
    # No pyplot: it would keep every figure alive and pick a screen.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, 2.9), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _curves(sample: Sample) -> tuple[Floats, Floats, Floats]:
    """Return FPR, recall and precision at every distinct risk, falling: (G,) each."""
    rows = sample.prepared
    labels = sample.harmful[rows.order]
    hits, alarms = np.cumsum(labels)[rows.ends], np.cumsum(~labels)[rows.ends]
    keep = np.unique(np.linspace(0, len(hits) - 1, _CURVE_POINTS).astype(int))
    return (alarms / alarms[-1])[keep], (hits / hits[-1])[keep], (hits / (hits + alarms))[keep]


def _precision_recall(axis: Axes, sample: Sample, *, recall: Floats, precision: Floats) -> None:
    axis.step(recall, precision, where="pre", color=HARM)
    axis.axhline(float(sample.harmful.mean()), color=INK, linewidth=0.8, linestyle=":", label="chance")
    hits = int((sample.harmful & sample.predicted).sum())
    if hits:
        axis.plot(hits / sample.harmful.sum(), hits / sample.predicted.sum(), "o", color=INK, label="as it acts")
    axis.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title="Precision and recall")
    axis.legend(loc="lower left")


def _roc(axis: Axes, sample: Sample, *, fpr: Floats, recall: Floats) -> None:
    axis.plot(np.append(0.0, fpr), np.append(0.0, recall), color=HARM)
    axis.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":", label="chance")
    alarms, hits = sample.predicted[~sample.harmful].mean(), sample.predicted[sample.harmful].mean()
    axis.plot(float(alarms), float(hits), "o", color=INK, label="as it acts")
    axis.set(xlim=(-0.01, 1), ylim=(0, 1.02), xlabel="false-positive rate", ylabel="recall", title="ROC")
    axis.legend(loc="lower right")


def _calibration(axis: Axes, bins: Sequence[Bin]) -> None:
    axis.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":", label="ideal")
    shares = np.array([one.harmful for one in bins])
    spread = np.abs(np.array([[one.low, one.high] for one in bins]).T - shares)
    axis.errorbar([one.risk for one in bins], shares, yerr=spread, fmt="o", markersize=3.5, color=HARM, linewidth=1)
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="mean risk", ylabel="share harmful", title="Calibration")
    axis.legend(loc="upper left")


def _histogram(axis: Axes, sample: Sample, *, threshold: float | None) -> None:
    edges = np.linspace(0, 1, 21).tolist()
    for label, mask, colour, hatch in (
        ("harmless", ~sample.harmful, SAFE, None),
        ("harmful", sample.harmful, HARM, "////"),
    ):
        shares = np.full(int(mask.sum()), 1 / max(1, int(mask.sum())))
        axis.hist(sample.risk[mask], edges, weights=shares, histtype="step", color=colour, hatch=hatch, label=label)
    _mark(axis, threshold)
    axis.set(xlim=(0, 1), xlabel="risk", ylabel="share of the class", title="Risk by label")
    axis.legend(loc="upper center")


def _mark(axis: Axes, threshold: float | None) -> None:
    if threshold is not None:
        axis.axvline(threshold, color=INK, linewidth=0.8, linestyle=":", label=f"threshold {threshold:.2f}")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
