"""From cells to figures with goals, a table and a plot."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from guardrail_plugin.bench.cells import DIRECT, GENERIC, LLAMA_CPP, NAIVE, NAIVE_BF16, PACKED, PACKED_BF16, PEERS, Cell
from guardrail_plugin.core.errors import MissingDependencyError

GOALS: Mapping[str, tuple[str, float]] = {
    "packed vs naive, 64 concurrent": (">=", 5.0),
    "packed vs naive, 8 concurrent": (">=", 4.0),
    "generic vs naive, 64 concurrent": (">=", 3.0),
    "packed, fraction of the peak, 64 concurrent": (">=", 0.85),
    "packed, fraction of the peak, 8 concurrent": (">=", 0.70),
    "verdicts that differ from naive": ("<=", 0.0),
    **{f"generic vs {peer}, {at} concurrent": (">=", 1.3 if at == 64 else 1.0) for peer in PEERS for at in (1, 8, 64)},
    **{f"packed vs {LLAMA_CPP}, {at} concurrent": (">=", 1.5) for at in (1, 8, 64)},
    "responses from kept rows vs generate": (">=", 2.0),
    "verdict p95 beside responses vs alone": ("<=", 2.0),
    "pool adds at 1 concurrent, p50, ms": ("<=", 1.0),
    "overload: answered p99 / deadline": ("<=", 1.0),
    "overload: asked less answered less refused at once, share": ("<=", 0.0),
    "overload: recovery, s": ("<=", 1.0),
}
"""What the project set itself."""


@dataclass(frozen=True, slots=True)
class Line:
    """Medians over the rounds of one contender at one concurrency, with the least and the most processor time."""

    contender: str
    concurrency: int
    rounds: int
    cpu_ms: float
    cpu_ms_range: tuple[float, float]
    fraction: float
    rps: float
    p50_ms: float
    p95_ms: float
    peak_gflops: float


def lines_of(cells: Sequence[Cell]) -> list[Line]:
    """Return one line per contender and concurrency, in the order of the cells."""
    groups: dict[tuple[str, int], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.contender, cell.concurrency].append(cell)
    return [
        Line(
            name,
            at,
            len(group),
            statistics.median(c.cpu_ms for c in group),
            (min(c.cpu_ms for c in group), max(c.cpu_ms for c in group)),
            statistics.median(c.fraction for c in group),
            statistics.median(c.rps for c in group),
            statistics.median(c.p50_ms for c in group),
            statistics.median(c.p95_ms for c in group),
            statistics.median(c.peak_gflops for c in group),
        )
        for (name, at), group in groups.items()
    ]


def verdict_figures(cells: Sequence[Cell]) -> dict[str, float]:
    """Return the figures that cells can tell. Ratios are of fractions of the peak, so a drifting clock cancels."""
    lines = {(line.contender, line.concurrency): line for line in lines_of(cells)}
    found: dict[str, float] = {}
    naive = lines.get((NAIVE, 1))
    for at in sorted({line.concurrency for line in lines.values()}):
        packed, generic = lines.get((PACKED, at)), lines.get((GENERIC, at))
        if packed is not None:
            found[f"packed, fraction of the peak, {at} concurrent"] = packed.fraction
        for name, line in (("packed", packed), ("generic", generic)):
            if line is not None and naive is not None:
                found[f"{name} vs naive, {at} concurrent"] = line.fraction / naive.fraction
        for peer in PEERS:
            if generic is not None and (other := lines.get((peer, at))) is not None:
                found[f"generic vs {peer}, {at} concurrent"] = generic.fraction / other.fraction
        if packed is not None and (other := lines.get((LLAMA_CPP, at))) is not None:
            found[f"packed vs {LLAMA_CPP}, {at} concurrent"] = packed.fraction / other.fraction
    if (pooled := lines.get((GENERIC, 1))) is not None and (alone := lines.get((DIRECT, 1))) is not None:
        found["generic engine at 1 concurrent, with the pool less without, p50, ms"] = pooled.p50_ms - alone.p50_ms
    exact = [cell for cell in cells if cell.contender not in (NAIVE_BF16, PACKED_BF16, LLAMA_CPP)]
    if any(cell.contender == NAIVE for cell in exact):
        found["verdicts that differ from naive"] = float(_differ(NAIVE, exact))
        found |= _unlike(NAIVE, LLAMA_CPP, cells)
    return found | _bfloat16_figures(cells, lines)


def _bfloat16_figures(cells: Sequence[Cell], lines: Mapping[tuple[str, int], Line]) -> dict[str, float]:
    """Return what 16 bits gain and change. Across formats by processor time, since the peaks are different ones."""
    found: dict[str, float] = {}
    naive, naive_half = lines.get((NAIVE, 1)), lines.get((NAIVE_BF16, 1))
    if naive is not None and naive_half is not None:
        found["naive, processor time of float32 / bfloat16"] = naive.cpu_ms / naive_half.cpu_ms
    for at in sorted({line.concurrency for line in lines.values()}):
        packed, half = lines.get((PACKED, at)), lines.get((PACKED_BF16, at))
        if half is not None and naive_half is not None:
            found[f"packed vs naive, both bfloat16, {at} concurrent"] = half.fraction / naive_half.fraction
        if half is not None and packed is not None:
            found[f"packed, processor time of float32 / bfloat16, {at} concurrent"] = packed.cpu_ms / half.cpu_ms
    for reference in (NAIVE, NAIVE_BF16):
        found |= _unlike(reference, PACKED_BF16, cells)
    return found


def _unlike(reference: str, contender: str, cells: Sequence[Cell]) -> dict[str, float]:
    """Return the share of a contender's verdicts that are not the reference's, where both were measured."""
    own = [cell for cell in cells if cell.contender == contender]
    if not own or not any(cell.contender == reference for cell in cells):
        return {}
    both = [next(cell for cell in cells if cell.contender == reference), *own]
    share = _differ(reference, both) / sum(len(cell.answers) for cell in own)
    return {f"{contender}: share of verdicts unlike {reference}": share}


def _differ(reference: str, cells: Sequence[Cell]) -> int:
    """Return how many answers of all cells are not those of the first cell of ``reference``."""
    expected = next(cell.answers for cell in cells if cell.contender == reference)
    return sum(a != b for cell in cells for a, b in zip(expected, cell.answers, strict=True))


def cell_table(cells: Sequence[Cell]) -> str:
    """Return the medians as Markdown."""
    rows = [
        "| contender | concurrent | rounds | cpu ms / request (least-most) | fraction of peak | requests/s "
        "| p50 / p95 ms | peak, GFLOP/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {line.contender} | {line.concurrency} | {line.rounds} | {line.cpu_ms:.1f} "
        f"({line.cpu_ms_range[0]:.1f}-{line.cpu_ms_range[1]:.1f}) | {line.fraction:.2f} | {line.rps:.1f} "
        f"| {line.p50_ms:.0f} / {line.p95_ms:.0f} | {line.peak_gflops:.0f} |"
        for line in sorted(lines_of(cells), key=lambda line: (line.concurrency, line.contender))
    ]
    return "\n".join(rows)


def goal_table(figures: Mapping[str, float]) -> str:
    """Return each figure beside its goal, and whether it was met."""
    rows = ["| figure | measured | goal | |", "|---|---|---|---|"]
    for name, value in figures.items():
        sign, goal = GOALS.get(name, ("", 0.0))
        word = "met" if (value >= goal if sign == ">=" else value <= goal) else "missed"
        rows.append(f"| {name} | {value:.2f} | {sign} {goal:g} | {word} |" if sign else f"| {name} | {value:.2f} | | |")
    return "\n".join(rows)


def plot(cells: Sequence[Cell], file: Path) -> None:
    """Draw processor time per request and the fraction of the peak.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError("matplotlib", extra="bench") from None
    lines = lines_of(cells)
    names = list(dict.fromkeys(line.contender for line in lines))
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in names:
        own = sorted((line for line in lines if line.contender == name), key=lambda line: line.concurrency)
        at = [line.concurrency for line in own]
        left.plot(at, [line.cpu_ms for line in own], marker="o", label=name)
        right.plot(at, [line.fraction for line in own], marker="o", label=name)
    for axes, title in ((left, "processor ms per verdict"), (right, "fraction of the matmul peak")):
        axes.set(title=title, xlabel="concurrent callers", xscale="log")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    figure.savefig(file, dpi=150)
