"""What the benchmarks of the rails share: their options, intervals, and a JSON file with a Markdown table beside it."""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from guardrail_plugin import __version__
from guardrail_plugin.core.dtype import DTYPES
from guardrail_plugin.evals.intervals import wilson

T = TypeVar("T")
RESAMPLES = 2000


def options(description: str | None, *, n: int, what: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all have."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--n", type=int, default=n, help=what)
    parser.add_argument("--seed", type=int, default=0, help="of the draw and of the bootstrap")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="number format of the guardian, if it is real")
    parser.add_argument("--out", type=Path, default=None, help="folder for NAME.json and NAME.md")
    return parser


def progress(items: Sequence[T], label: str) -> Iterable[T]:
    """Go through items with a bar on the error stream."""
    bar: Iterable[T] = tqdm(items, desc=label, leave=False)
    return bar


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Read a JSONL file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def share(hits: int, n: int) -> dict[str, float | int] | None:
    """Return a proportion with its 95 % Wilson interval; ``None`` of nothing."""
    if n == 0:
        return None
    low, high = wilson(hits, n)
    return {"value": hits / n, "low": low, "high": high, "hits": hits, "n": n}


def middle(
    values: Sequence[float], *, seed: int, of: Callable[[Sequence[float]], float] = statistics.median
) -> dict[str, float | int] | None:
    """Return a median, or another statistic, with its 95 % percentile bootstrap interval; ``None`` of nothing."""
    if not values:
        return None
    rng = random.Random(seed)
    drawn = sorted(of(rng.choices(values, k=len(values))) for _ in range(RESAMPLES))
    low, high = drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES) - 1]
    return {"value": of(values), "low": low, "high": high, "n": len(values)}


def shown(figure: dict[str, float | int] | None, unit: str = "") -> str:
    """Write a figure with its interval for a table; shares in percent."""
    if figure is None:
        return "–"
    if unit == "%":
        return f"{figure['value']:.1%} [{figure['low']:.1%}, {figure['high']:.1%}]"
    return f"{figure['value']:.2f} [{figure['low']:.2f}, {figure['high']:.2f}]{' ' + unit if unit else ''}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tell(name: str, given: argparse.Namespace, figures: dict[str, Any], markdown: str) -> None:
    """Print the table, and write it with the figures where ``--out`` says."""
    print(markdown)
    if given.out is None:
        return
    given.out.mkdir(parents=True, exist_ok=True)
    settings = {key: value.name if isinstance(value, Path) else value for key, value in vars(given).items()}
    made = {"python": platform.python_version(), "guardrail_plugin": __version__, "machine": platform.machine()}
    record = {"settings": settings, "made_with": made, "figures": figures}
    (given.out / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (given.out / f"{name}.md").write_text(markdown + "\n", encoding="utf-8")
