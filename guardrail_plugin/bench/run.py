"""Run the whole benchmark and write ``bench.json``, ``bench.md`` and ``bench.png``."""

from __future__ import annotations

import asyncio
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from guardrail_plugin._version import __version__
from guardrail_plugin.bench import extras, grid
from guardrail_plugin.bench.cells import CONTENDERS, PACKED, Cell, Skip, verdict_cells
from guardrail_plugin.bench.contenders import Bench
from guardrail_plugin.bench.figures import cell_table, goal_table, lines_of, plot, verdict_figures
from guardrail_plugin.bench.load import make_load
from guardrail_plugin.core.errors import ConfigError, did_you_mean
from guardrail_plugin.models.load import load_causal_lm, model_folder
from guardrail_plugin.models.locate import locate

PARTS = ("verdicts", "responses", "beside", "pool", "overload", "grid")
TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured. The defaults are what the published figures are made of; ``quick`` is a look."""

    only: tuple[str, ...] = ("verdicts", "responses", "beside", "pool", "overload")
    contenders: tuple[str, ...] = tuple(contender.name for contender in CONTENDERS)
    requests: int = 400
    rounds: int = 5
    concurrencies: tuple[int, ...] = (1, 8, 64)
    rows: int = 32
    tokens: int = 48
    overload_s: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        known = [contender.name for contender in CONTENDERS]
        for name, words in ((n, PARTS) for n in self.only):
            _check(name, words)
        for name in self.contenders:
            _check(name, known)

    def quick(self) -> Plan:
        """Return the same at a size that a coffee outlasts; its figures say nothing."""
        return Plan(
            only=self.only,
            contenders=self.contenders,
            requests=24,
            rounds=1,
            concurrencies=(1, 8),
            rows=4,
            tokens=8,
            overload_s=3.0,
            seed=self.seed,
        )


def run(plan: Plan, *, out: Path, tell: Callable[[str], None] = lambda _: None) -> str:
    """Measure, write the files into ``out`` after every part, and return the Markdown."""
    out.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"version": __version__, "machine": _machine(), "plan": asdict(plan)}
    bench, cells = _open(plan), list[Cell]()
    figures: dict[str, float] = {}
    with _one_thread():
        for part in (part for part in PARTS if part in plan.only):
            tell(part)
            if part == "verdicts":
                cells = _verdicts(plan, bench, record, tell)
                figures |= verdict_figures(cells)
                plot(cells, out / "bench.png")
            else:
                found = _part(part, plan, bench, cells)
                record[part] = found
                figures |= _figures_of(part, found)
            record["figures"] = figures
            text = _text(record, cells)
            (out / "bench.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            (out / "bench.md").write_text(text, encoding="utf-8")
    return _text(record, cells)


def _open(plan: Plan) -> Bench:
    from transformers import AutoTokenizer

    folder = model_folder(locate(offline=True), quiet=True)
    model = load_causal_lm(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return Bench(folder, model, make_load(tokenizer, model, requests=plan.requests, seed=plan.seed))


def _verdicts(plan: Plan, bench: Bench, record: dict[str, Any], tell: Callable[[str], None]) -> list[Cell]:
    contenders = [contender for contender in CONTENDERS if contender.name in plan.contenders]
    cells, skips = list[Cell](), list[Skip]()
    for one in verdict_cells(bench, contenders, rounds=plan.rounds, concurrencies=plan.concurrencies, tell=tell):
        if isinstance(one, Cell):
            cells.append(one)
        else:
            skips.append(one)
            tell(f"skipped: {one.contender}: {one.reason}")
    record["cells"] = [{key: value for key, value in asdict(cell).items() if key != "answers"} for cell in cells]
    record["skipped"] = {skip.contender: skip.reason for skip in skips}
    return cells


def _part(part: str, plan: Plan, bench: Bench, cells: Sequence[Cell]) -> Any:
    if part == "responses":
        return extras.responses(bench, rows=plan.rows, tokens=plan.tokens, rounds=plan.rounds)
    if part == "beside":
        work = extras.beside_responses(
            bench, verdicts=plan.requests // 2, rows=plan.rows, tokens=plan.tokens, rounds=plan.rounds
        )
        return asyncio.run(work)
    if part == "pool":
        return extras.pool_cost_ms()
    if part == "overload":
        capacity = max((line.rps for line in lines_of(cells) if line.contender == PACKED), default=10.0)
        work = extras.overload(bench, rate=3 * capacity, seconds=plan.overload_s, timeout_s=TIMEOUT_S, seed=plan.seed)
        return asyncio.run(work)
    model = bench.model
    if torch.cuda.is_available():
        model = load_causal_lm(bench.folder, device="cuda:0")
        return [asdict(point) for point in grid.points(model)]
    return [asdict(point) for point in grid.points(model, lengths=(32, 128), batches=(1, 8), repeats=3)]


def _figures_of(part: str, found: Any) -> dict[str, float]:
    if part == "responses":
        return {"responses from kept rows vs generate": found["kept"] / found["generate"]}
    if part == "beside":
        return {"verdict p95 beside responses vs alone": found["decoding"] / found["alone"]}
    if part == "pool":
        return {"pool adds at 1 concurrent, p50, ms": found["p50"]}
    if part == "overload":
        return {
            "overload: answered p99 / deadline": found["answered_p99_s"] / TIMEOUT_S,
            "overload: asked less answered less refused at once, share": found["expired"] / max(1.0, found["asked"]),
            "overload: recovery, s": found["recovery_s"],
        }
    return {}


def _text(record: Mapping[str, Any], cells: Sequence[Cell]) -> str:
    parts = [f"# guardrail bench {record['version']}", ", ".join(f"{k}: {v}" for k, v in record["machine"].items())]
    if cells:
        parts.append(cell_table(cells))
    parts += [f"Skipped: {name}: {reason}." for name, reason in record.get("skipped", {}).items()]
    parts.append(goal_table(record["figures"]))
    parts += [f"{part}: `{json.dumps(record[part])}`" for part in PARTS if part in record and part != "grid"]
    if points := record.get("grid"):
        parts.append("| " + " | ".join(points[0]) + " |\n" + "|---" * len(points[0]) + "|")
        parts[-1] += "".join("\n| " + " | ".join(f"{value:.4g}" for value in point.values()) + " |" for point in points)
    return "\n\n".join(parts) + "\n"


def _machine() -> dict[str, str]:
    found = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
    if torch.cuda.is_available():
        found["accelerator"] = torch.cuda.get_device_name(0)
    return found


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check(name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ConfigError(f"{name!r} is none of {', '.join(known)}{did_you_mean(name, known)}")
