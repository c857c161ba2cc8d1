"""Measure the engines: cost of a verdict, of a response, of the pool; JSON and a Markdown table.

Run: ``python tests/benchmark/engines.py --out FOLDER``. The full run (400 requests, 5 rounds) takes one to two hours
on a quiet core; ``--requests 48 --rounds 1`` is a look. Cells of one round alternate, so that other load on the machine
weighs on all; the peak is measured around each cell. Trust process time and the fraction of the peak, not wall time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from transformers import AutoTokenizer
from verdict_load import Load, closed_loop, cpu_seconds, make_load, naive_verdict, p95, peak_gflops

from guardrail_plugin.models.kept import KeptRows
from guardrail_plugin.models.load import load_causal_lm, model_folder
from guardrail_plugin.models.locate import locate
from guardrail_plugin.models.rows import Engine
from guardrail_plugin.models.torch_generic import GenericEngine
from guardrail_plugin.models.torch_packed import PackedEngine
from guardrail_plugin.models.torch_replica import TorchReplica
from guardrail_plugin.models.torch_threads import use_one_thread
from guardrail_plugin.pool import GenerateRequest, InferencePool, ScoreRequest
from guardrail_plugin.testing import ScriptedReplica

GOALS = {
    "packed vs naive, 64 concurrent": (">=", 5.0),
    "packed vs naive, 8 concurrent": (">=", 4.0),
    "packed, fraction of the peak, 64 concurrent": (">=", 0.85),
    "packed, fraction of the peak, 8 concurrent": (">=", 0.70),
    "generic vs naive, 64 concurrent": (">=", 3.0),
    "verdicts that differ from naive": ("<=", 0),
    "responses from kept rows vs generate": (">=", 2.0),
    "verdict p95 while decoding vs alone": ("<=", 2.0),
    "pool overhead at 1 concurrent, p50, ms": ("<=", 1.0),
}


def open_pool(engine: Engine, *, replicas: int = 1, kept_mb: int = 256) -> InferencePool:
    """Return a pool whose replicas share the engine and what is kept, one thread each."""
    kept = KeptRows(max_bytes=kept_mb << 20)

    def build(device: str) -> TorchReplica:
        use_one_thread()
        return TorchReplica(engine=engine, kept=kept)

    pool = InferencePool(replicas=replicas)
    pool.register("m", build)
    return pool


def verdict_cells(
    model: Any, engines: dict[str, Engine], load: Load, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Yield one record per round, engine and concurrency: process ms per request, fraction of the peak, answers."""
    count = len(load.prompts)
    for _ in range(options.rounds):
        cells: list[tuple[str, int, Callable[[], list[int]]]] = [
            ("naive", 1, lambda: [naive_verdict(model, prompt, load.label_ids) for prompt in load.prompts])
        ]
        for concurrency in options.concurrency:
            for name, engine in engines.items():

                def run(engine: Engine = engine, concurrency: int = concurrency) -> list[int]:
                    with open_pool(engine, replicas=options.replicas) as pool:
                        requests = [load.request(i) for i in range(count)]
                        return asyncio.run(closed_loop(pool, requests, concurrency=concurrency))[0]

                cells.append((name, concurrency, run))
        for name, concurrency, work in cells:
            answers: list[int] = []
            before = peak_gflops(model)
            cpu, wall = cpu_seconds(lambda work=work, answers=answers: answers.extend(work()))  # type: ignore[misc]
            peak = (before + peak_gflops(model)) / 2
            yield {
                "engine": name,
                "concurrency": concurrency,
                "cpu_ms": cpu / count * 1e3,
                "rps": count / wall,
                "peak_gflops": peak,
                "fraction": load.new_flops * count / cpu / (peak * 1e9),
                "answers": answers,
            }


def response_cells(model: Any, engines: dict[str, Engine], load: Load, options: argparse.Namespace) -> dict[str, float]:
    """Return tokens per process second: ``generate`` from full prompts, and decodes from rows kept of the verdicts."""
    prompts = [load.prompts[i % len(load.prompts)] for i in range(options.responses)]
    made = len(prompts) * options.tokens
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(options.rounds):
        cpu, _ = cpu_seconds(
            lambda: model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=options.tokens,
                min_new_tokens=options.tokens,
                do_sample=False,
                pad_token_id=0,
            )
        )
        rates["generate"].append(made / cpu)
        for name, engine in engines.items():
            replica = TorchReplica(engine=engine, kept=KeptRows(max_bytes=1 << 30))
            for prompt in prompts:
                replica.score([ScoreRequest("m", prompt, load.label_ids, prefix_len=65)])
            decode = replica.start([GenerateRequest("m", (*prompt, 28), options.tokens) for prompt in prompts])

            def drain(decode: Any = decode) -> None:
                while decode.step():
                    pass

            rates[name].append(made / cpu_seconds(drain)[0])
    return {name: statistics.median(values) for name, values in rates.items()}


async def interference(engine: Engine, load: Load, options: argparse.Namespace) -> dict[str, float]:
    """Return the verdict p95 of 8 clients, alone and while responses are decoded. Units: milliseconds."""
    count = len(load.prompts)
    requests = [load.request(i % count) for i in range(options.interference)]
    found: dict[str, list[float]] = {"alone": [], "decoding": []}
    async with open_pool(engine, replicas=max(options.replicas, 2), kept_mb=1024) as pool:

        async def respond(index: int) -> None:
            while True:
                await pool.agenerate(GenerateRequest("m", (*load.prompts[index % count], 28), options.tokens))

        await closed_loop(pool, [load.request(i) for i in range(count)], concurrency=8)  # their rows are kept from here
        for _ in range(options.rounds):
            for name, latencies in found.items():
                decoding = [asyncio.create_task(respond(i)) for i in range(options.responses * (name == "decoding"))]
                await asyncio.sleep(1.0 if decoding else 0.0)  # into the decodes
                latencies.append(p95((await closed_loop(pool, requests, concurrency=8))[1]) * 1e3)
                for task in decoding:
                    task.cancel()
                await asyncio.gather(*decoding, return_exceptions=True)
    return {name: statistics.median(values) for name, values in found.items()}


def overhead_ms(*, calls: int = 2000) -> dict[str, float]:
    """Return what a pool adds to a call at 1 concurrent: around a replica that answers at once. Units: milliseconds."""
    request = ScoreRequest("m", tuple(range(95)), (1, 2))
    replica = ScriptedReplica()
    times: dict[str, list[float]] = {"pool": [], "direct": []}
    with InferencePool() as pool:
        pool.register("m", replica.factory)
        for _ in range(calls):
            start = perf_counter()
            pool.submit(request).result()
            middle = perf_counter()
            replica.score([request])
            times["pool"].append(middle - start)
            times["direct"].append(perf_counter() - middle)
            replica.calls.clear()
    added = [pool - direct for pool, direct in zip(times["pool"], times["direct"], strict=True)]
    return {"p50": statistics.median(added) * 1e3, "p95": p95(added) * 1e3}


def summary(cells: list[dict[str, Any]]) -> tuple[list[str], dict[str, float]]:
    """Return table lines of medians over rounds, and the figures that have goals."""
    by_cell: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for cell in cells:
        by_cell[cell["engine"], cell["concurrency"]].append(cell)
    median = {
        key: {figure: statistics.median(cell[figure] for cell in found) for figure in ("cpu_ms", "rps", "fraction")}
        for key, found in by_cell.items()
    }
    naive = by_cell["naive", 1][0]["answers"]
    lines = ["| engine | concurrent | cpu ms / request | fraction of peak | requests / s | cost of naive / its cost |"]
    lines.append("|---|---|---|---|---|---|")
    figures = {"verdicts that differ from naive": 0.0}
    for (name, concurrency), row in sorted(median.items(), key=lambda item: (item[0][1], item[0][0])):
        times = median["naive", 1]["cpu_ms"] / row["cpu_ms"]
        lines.append(
            f"| {name} | {concurrency} | {row['cpu_ms']:.0f} | {row['fraction']:.2f} | {row['rps']:.1f} | {times:.2f} |"
        )
        figures[f"{name} vs naive, {concurrency} concurrent"] = times
        figures[f"{name}, fraction of the peak, {concurrency} concurrent"] = row["fraction"]
        for cell in by_cell[name, concurrency]:
            figures["verdicts that differ from naive"] += sum(
                a != b for a, b in zip(naive, cell["answers"], strict=True)
            )
    return lines, figures


def measure(options: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    """Run everything; return the table and the record."""
    folder = model_folder(locate(options.model, offline=True), quiet=True)
    model = load_causal_lm(folder)
    load = make_load(AutoTokenizer.from_pretrained(folder), model, requests=options.requests, seed=options.seed)
    engines: dict[str, Engine] = {"generic": GenericEngine(model), "packed": PackedEngine(model)}
    cells = list(verdict_cells(model, engines, load, options))
    lines, figures = summary(cells)
    responses = response_cells(model, engines, load, options)
    wait_ms = asyncio.run(interference(engines["packed"], load, options))
    added = overhead_ms()
    figures["responses from kept rows vs generate"] = responses["packed"] / responses["generate"]
    figures["verdict p95 while decoding vs alone"] = wait_ms["decoding"] / wait_ms["alone"]
    figures["pool overhead at 1 concurrent, p50, ms"] = added["p50"]
    lines += ["", "| figure | measured | goal |", "|---|---|---|"]
    lines += [
        f"| {name} | {figures[name]:.2f} | {sign} {goal:g} |" for name, (sign, goal) in GOALS.items() if name in figures
    ]
    rates = ", ".join(f"{name} {rate:.1f}" for name, rate in responses.items())
    lines += ["", f"Responses, tokens per process second: {rates}. Verdict p95, ms: {wait_ms}. Pool adds, ms: {added}."]
    record = {
        "machine": {"processor": platform.processor() or platform.machine(), "torch": torch.__version__},
        "options": {name: value for name, value in vars(options).items() if name != "out"},
        "cells": [{key: value for key, value in cell.items() if key != "answers"} for cell in cells],
        "responses_tokens_per_cpu_s": responses,
        "verdict_p95_ms": wait_ms,
        "pool_overhead_ms": added,
        "figures": figures,
    }
    return lines, record


def main() -> int:
    """Measure, print the table, write it and the JSON record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help="folder for engines.json and engines.md")
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--replicas", type=int, default=1, help="pool replicas in the verdict cells, one thread each")
    parser.add_argument("--responses", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=48, help="new tokens per response")
    parser.add_argument("--interference", type=int, default=200, help="verdicts timed while responses are decoded")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines, record = measure(options)
    print("\n".join(lines))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "engines.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (options.out / "engines.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
