"""Draw the gateway's dashboard: every panel, from what a real Prometheus answers to its queries.

Run: ``python tests/benchmark/dashboard_picture.py dashboard.png --seconds 90``. Needs ``prometheus`` on the path, or
named by ``GUARDRAIL_PROMETHEUS``. The layout, units, legends and colours are the dashboard's; the drawing is
matplotlib's, not Grafana's.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from dashboard_prometheus import Prometheus, Series, prometheus
from dashboard_scene import SCRAPER, load, scene
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from guardrail_gateway import grafana_dashboard

BACK, PANEL, INK, FAINT = "#111217", "#181b1f", "#ccccdc", "#2c3235"
PALETTE = "#73BF69 #F2CC0C #8AB8FF #FF780A #F2495C #5794F2 #B877D9 #FADE2A #37872D #CA95E5 #56A64B #E0B400".split()
NAMED = {
    "green": "#73BF69",
    "red": "#F2495C",
    "orange": "#FF9830",
    "yellow": "#FADE2A",
    "blue": "#5794F2",
    "purple": "#B877D9",
}
ROW_INCH, COLUMN_INCH, DPI = 0.25, 0.55, 100
Drawn = list[tuple[str, Series]]


def told(value: float, unit: str) -> str:
    """Write a value as Grafana does with the dashboard's units."""
    if not math.isfinite(value):
        return str(value)
    if unit == "s":
        return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms" if value else "0 s"
    if unit == "percentunit":
        return f"{value * 100:.3g}%"
    ending = {"reqps": " req/s", "cps": " c/s"}.get(unit, "")
    return f"{value / 1e3:.3g} K{ending}" if abs(value) >= 1e3 else f"{value:.3g}{ending}"


def answers(asked: Prometheus, panel: Mapping[str, Any], *, start_s: float, end_s: float) -> Drawn:
    """Ask every query of a panel; returns legends and series."""
    return [
        (series.legend(target["legendFormat"]), series)
        for target in panel["targets"]
        for series in asked.range(asked.filled(target["expr"]), start_s=start_s, end_s=end_s)
    ]


def fixed_colours(panel: Mapping[str, Any]) -> dict[str, str]:
    """Return the colours that the panel gives to series by their names."""
    return {
        override["matcher"]["options"]: NAMED[one["value"]["fixedColor"]]
        for override in panel["fieldConfig"]["overrides"]
        for one in override["properties"]
        if one["id"] == "color"
    }


def draw_stat(axes: Axes, panel: Mapping[str, Any], lines: Drawn) -> None:
    """Write the last number, in its threshold's colour, over its course."""
    defaults = panel["fieldConfig"]["defaults"]
    axes.axis("off")
    if not lines or not lines[0][1].numbers:
        axes.text(0.5, 0.5, defaults.get("noValue", "No data"), ha="center", va="center", transform=axes.transAxes)
        return
    series = lines[0][1]
    last, colour = series.numbers[-1], PALETTE[0]
    for step in defaults.get("thresholds", {}).get("steps", []):
        colour = NAMED[step["color"]] if step["value"] is None or last >= step["value"] else colour
    if panel["options"]["graphMode"] == "area":
        axes.fill_between(series.at_s, series.values, color=colour, alpha=0.25, linewidth=0)
        axes.set_ylim(0, max(series.numbers) * 2.5 or 1)
    mapped = {key: one["text"] for mapping in defaults.get("mappings", []) for key, one in mapping["options"].items()}
    words = mapped.get(f"{last:g}", told(last, defaults["unit"]))
    axes.text(0.5, 0.6, words, ha="center", va="center", color=colour, fontsize=20, transform=axes.transAxes)


def draw_lines(axes: Axes, panel: Mapping[str, Any], lines: Drawn) -> None:
    """Draw lines, or bands on top of each other, with a legend below."""
    defaults = panel["fieldConfig"]["defaults"]
    fixed, colours = fixed_colours(panel), itertools.cycle(PALETTE)
    custom, below = defaults["custom"], dict[float, float]()
    for name, series in lines:
        colour = fixed.get(name) or next(colours)
        floor = [below.get(at, 0.0) for at in series.at_s] if custom["stacking"]["mode"] == "normal" else [0.0]
        bottom = np.broadcast_to(np.array(floor), len(series.values))
        top = bottom + np.array(series.values)
        below.update(zip(series.at_s, top.tolist(), strict=True))
        fill = axes.fill_between(series.at_s, bottom, top, color=colour, alpha=custom["fillOpacity"] / 100, linewidth=0)
        if custom["lineWidth"]:
            axes.plot(series.at_s, top, color=colour, linewidth=custom["lineWidth"] * 1.2, label=name)
        else:
            fill.set_label(name)
    axes.set_ylim(bottom=defaults.get("min"), top=defaults.get("max"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: told(value, defaults["unit"])))
    columns = 2 if any(len(name) > 18 for name, _ in lines) else 3 if len(lines) < 10 else 4
    axes.legend(
        loc="upper left", bbox_to_anchor=(-0.02, -0.1), ncols=columns, fontsize=6.5 if columns < 4 else 5.6,
        frameon=False, labelcolor=INK, handlelength=1.0, columnspacing=1.0, borderaxespad=0.0, labelspacing=0.25,
    )  # fmt: skip


def draw_heatmap(axes: Axes, panel: Mapping[str, Any], lines: Drawn) -> None:
    """Draw how many values fall into each bucket: Prometheus counts up to an end, Grafana subtracts."""
    ordered = sorted(lines, key=lambda line: float(line[1].labels["le"]))
    counts = np.diff(np.array([series.values for _, series in ordered]), axis=0, prepend=0.0)
    counts = np.ma.masked_less_equal(counts, panel["options"]["filterValues"]["le"])
    at_s = np.array(ordered[0][1].at_s)
    axes.pcolormesh(at_s, np.arange(len(ordered)), counts, cmap="Blues_r", shading="nearest", vmin=0)
    axes.set_yticks(range(0, len(ordered), 2), [name for name, _ in ordered[::2]])
    axes.grid(visible=False)


DRAW: dict[str, Callable[[Axes, Mapping[str, Any], Drawn], None]] = {
    "stat": draw_stat, "timeseries": draw_lines, "heatmap": draw_heatmap
}  # fmt: skip


def place(figure: Figure, panel: Mapping[str, Any], rows: int) -> Axes | None:
    """Put a panel where the dashboard has it, with its title; returns where to draw, nothing for a row's heading."""
    grid, height, width = panel["gridPos"], rows * ROW_INCH, 24 * COLUMN_INCH
    left, top = grid["x"] * COLUMN_INCH + 0.05, height - grid["y"] * ROW_INCH
    wide, high = grid["w"] * COLUMN_INCH - 0.1, grid["h"] * ROW_INCH - 0.08
    heading = panel["type"] == "row"
    size, weight = (9, "bold") if heading else (8, "normal")
    figure.text((left + 0.08) / width, (top - 0.17) / height, panel["title"], color=INK, fontsize=size, weight=weight)
    if heading:
        return None
    box = (left / width, (top - high) / height, wide / width, high / height)
    figure.patches.append(plt.Rectangle(box[:2], *box[2:], transform=figure.transFigure, color=PANEL, zorder=-1))
    plain = panel["type"] == "stat"
    inner = (0.0, 0.0, wide, high - 0.25) if plain else (0.72, 0.55, wide - 0.82, high - 0.86)
    axes = figure.add_axes(
        ((left + inner[0]) / width, (top - high + inner[1]) / height, inner[2] / width, inner[3] / height)
    )
    axes.set_facecolor(PANEL)
    axes.set_axisbelow(True)
    axes.grid(color=FAINT, linewidth=0.5)
    axes.tick_params(colors=INK, labelsize=6.5, length=0)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: time.strftime("%H:%M:%S", time.gmtime(at))))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.spines[:].set_visible(False)
    return axes


def picture(asked: Prometheus, path: Path, *, start_s: float, end_s: float) -> None:
    """Draw all panels into one PNG."""
    shown = json.loads(grafana_dashboard())["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in shown)
    figure = plt.figure(figsize=(24 * COLUMN_INCH, rows * ROW_INCH), facecolor=BACK, dpi=DPI)
    for panel in shown:
        axes = place(figure, panel, rows)
        if axes is None:
            continue
        lines = answers(asked, panel, start_s=start_s, end_s=end_s)
        if not lines:
            print(f"no data: {panel['title']}")
        if lines or panel["type"] == "stat":
            DRAW[panel["type"]](axes, panel, lines)
        if panel["type"] != "stat":
            axes.set_xlim(start_s, end_s)
    figure.savefig(path)
    plt.close(figure)
    with Image.open(path) as drawn:
        few = drawn.convert("RGB").quantize(256, kmeans=2, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


def main() -> None:
    """Run the scene, let Prometheus watch it, and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--rate", type=float, default=6.0, help="requests per second, between the waves")
    options = parser.parse_args()
    matplotlib.use("Agg")
    with (
        tempfile.TemporaryDirectory() as folder,
        scene(Path(folder)) as shown,
        prometheus(shown.url, key=SCRAPER, folder=Path(folder), every_s=2) as asked,
    ):
        start_s = time.time()
        sent = asyncio.run(load(shown, rate=options.rate, seconds=options.seconds, wave_every_s=options.seconds / 4))
        asked.wait(2)
        picture(asked, options.path, start_s=start_s, end_s=time.time())
    print(f"{sent} requests; {options.path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
