"""The paper's figure: where queries lie in the anchor's first two dimensions, and the curves of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from guardrail_plugin.core.errors import ConfigError, MissingDependencyError
from guardrail_plugin.dro.anchor import Anchor
from guardrail_plugin.dro.fit import conversation
from guardrail_plugin.dro.heads import Head
from guardrail_plugin.dro.hidden import collect_states
from guardrail_plugin.dro.identity import ModelIdentity, require_same
from guardrail_plugin.dro.soft_prompt import SoftPrompt
from guardrail_plugin.dro.writing import writing
from guardrail_plugin.models.chat_template import ChatSplice

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_HARMFUL, _HARMLESS = "#c0392b", "#2471a3"
_REFUSAL, _HARMFULNESS = "#222222", "#7d3c98"
_TERMS = {"loss": "L", "refusal": "L_r", "harmfulness": "L_h", "utility": "L_U", "validation": "validation"}


def soft_coordinates(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, anchor: Anchor, *, soft: SoftPrompt
) -> Tensor:
    """Return where an anchor's queries lie behind a soft prompt: (Q, m).

    Raises:
        SoftPromptMismatch: anchor or soft prompt belong to another model.
    """
    soft.require(model, tokenizer)
    require_same(anchor.identity, ModelIdentity.of(model, tokenizer))
    splice = ChatSplice(tokenizer)
    rows = [splice.row(conversation(query), soft=True) for query in anchor.queries]
    vectors = soft.vectors.to(model.device)
    states = collect_states(model, rows, vectors, layer=anchor.config.layer, batch_size=anchor.config.batch_size)
    return anchor.project(states)


def plot_anchor(anchor: Anchor, extra: Mapping[str, Tensor] | None = None) -> Figure:
    """Draw one panel per prompt: harmful and harmless queries, and both boundaries.

    A boundary is where a head's logit is 0 with the other coordinates at their mean. The arrow on it points to the side
    where the model refuses, or where a query looks harmful.

    Args:
        anchor: gives the panels of no prompt and of each safety prompt.
        extra: (Q, m) by name: more panels, of soft prompts for example.

    Raises:
        ConfigError: the anchor has one dimension only.
        MissingDependencyError: matplotlib is not installed.
    """
    if len(anchor.components) < 2:
        raise ConfigError("a plot needs an anchor of at least two dimensions")
    panels = dict(zip(anchor.conditions, anchor.coordinates, strict=True)) | dict(extra or {})
    figure = _figure(3.4 * len(panels), 3.8)
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    points = torch.cat([one[:, :2] for one in panels.values()])
    low, high = points.min(0).values, points.max(0).values
    margin = 0.08 * (high - low)
    axes[0].set_xlim(float(low[0] - margin[0]), float(high[0] + margin[0]))
    axes[0].set_ylim(float(low[1] - margin[1]), float(high[1] + margin[1]))
    for ax, (name, coordinates) in zip(axes, panels.items(), strict=True):
        _panel(ax, coordinates, anchor)
        ax.set_title("no prompt" if name == "none" else name)
        ax.set_xlabel("component 1")
    axes[0].set_ylabel("component 2")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def plot_curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Draw the loss and its terms over the steps of a training run.

    Raises:
        ConfigError: there is no history.
        MissingDependencyError: matplotlib is not installed.
    """
    if not history:
        raise ConfigError("this soft prompt has no training history")
    names = [name for name in _TERMS if any(name in step for step in history)]
    figure = _figure(3.2 * len(names), 3.0)
    for ax, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        steps = [i for i, step in enumerate(history, start=1) if name in step]
        ax.plot(steps, [history[i - 1][name] for i in steps], color=_HARMLESS, linewidth=1.2)
        ax.set_title(_TERMS[name])
        ax.set_xlabel("step")
    return figure


def save_figure(figure: Figure, path: str | Path) -> tuple[Path, Path]:
    """Write PNG and SVG beside each other and return their paths. The same figure gives the same bytes.

    Raises:
        ConfigError: one cannot be written.
    """
    import matplotlib

    png, svg = figure_files(path)
    with writing(png):
        figure.savefig(png, dpi=150, metadata={"Software": None})
    with writing(svg), matplotlib.rc_context({"svg.hashsalt": "guardrail"}):
        figure.savefig(svg, metadata={"Date": None})
    return png, svg


def figure_files(path: str | Path) -> tuple[Path, Path]:
    """Return the paths that ``save_figure`` writes to: PNG and SVG."""
    stem = Path(path).with_suffix("") if Path(path).suffix in (".png", ".svg") else Path(path)
    return stem.with_name(stem.name + ".png"), stem.with_name(stem.name + ".svg")


def _panel(ax: Axes, coordinates: Tensor, anchor: Anchor) -> None:
    harmless = anchor.is_harmless
    for kind, colour, label in ((~harmless, _HARMFUL, "harmful query"), (harmless, _HARMLESS, "harmless query")):
        x, y = coordinates[kind, 0].tolist(), coordinates[kind, 1].tolist()
        ax.scatter(x, y, s=9, alpha=0.7, color=colour, linewidths=0, label=label)
    _boundary(ax, anchor.refusal, colour=_REFUSAL, label="refusal boundary (arrow: refuses)")
    _boundary(ax, anchor.harmfulness, colour=_HARMFULNESS, label="harmfulness boundary (arrow: harmful)")


def _boundary(ax: Axes, head: Head, *, colour: str, label: str) -> None:
    """Draw w₁ x + w₂ y + b = 0 and an arrow against the logit's growth."""
    normal = head.weight[:2]
    length = float(normal.norm())
    if length == 0:
        return
    unit = normal / length
    foot = -float(head.bias) / length * unit  # the point of the line that is nearest to the mean
    along = torch.stack([-unit[1], unit[0]])
    through = (tuple(foot.tolist()), tuple((foot + along).tolist()))
    ax.axline(*through, color=colour, linestyle="--", linewidth=1, label=label)
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    reach = 0.12 * min(right - left, top - bottom)
    tip = foot - reach * unit
    if left < foot[0] < right and bottom < foot[1] < top:
        ax.annotate(
            "", tuple(tip.tolist()), tuple(foot.tolist()), arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.2}
        )


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure as MatplotlibFigure
    except ImportError:
        raise MissingDependencyError("matplotlib", extra="train") from None
    return MatplotlibFigure(figsize=(width, height), layout="constrained")
