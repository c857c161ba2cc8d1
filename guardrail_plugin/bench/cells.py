"""Measure verdicts: contenders alternate within a round, the machine's peak is measured around every cell."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from guardrail_plugin.bench import peers
from guardrail_plugin.bench.contenders import Bench, Contender, SkippedError, direct, naive, pooled
from guardrail_plugin.bench.load import Ask, closed_loop, p95, peak_gflops, tree_cpu_s
from guardrail_plugin.models.torch_generic import GenericEngine
from guardrail_plugin.models.torch_packed import PackedEngine

NAIVE, DIRECT, GENERIC, PACKED = "naive transformers", "generic engine, no pool", "generic engine", "packed engine"
NAIVE_BF16, PACKED_BF16 = "naive transformers, bfloat16", "packed engine, bfloat16"
LLAMA_CPP = "llama.cpp, 4 bits"
PEERS = {"batched": peers.batched, "Ray @serve.batch": peers.ray_serve, "LitServe": peers.litserve}
"""Others around the same generic engine."""

CONTENDERS = (
    Contender(NAIVE, naive, alone=True),
    Contender(DIRECT, direct, alone=True),
    Contender(GENERIC, pooled(GenericEngine)),
    Contender(PACKED, pooled(PackedEngine)),
    Contender(NAIVE_BF16, naive, alone=True, bfloat16=True),
    Contender(PACKED_BF16, pooled(PackedEngine), bfloat16=True),
    *(Contender(name, opener) for name, opener in PEERS.items()),
    Contender(LLAMA_CPP, peers.llama_cpp),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One contender at one concurrency in one round.

    Attributes:
        cpu_ms: processor time per request, of this process and all that it started.
        peak_gflops: of one thread in the contender's number format, mean of just before and just after. Units: 1e9
            operations per second.
        fraction: share of that peak that went into work that had to be done (template kept): 1 is the limit.
        answers: index of the likeliest label per request.
    """

    contender: str
    concurrency: int
    round: int
    n: int
    cpu_ms: float
    rps: float
    p50_ms: float
    p95_ms: float
    peak_gflops: float
    fraction: float
    answers: tuple[int, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Skip:
    """A contender that could not run, and why."""

    contender: str
    reason: str


def verdict_cells(
    bench: Bench,
    contenders: Sequence[Contender] = CONTENDERS,
    *,
    rounds: int,
    concurrencies: Sequence[int],
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[Cell | Skip]:
    """Yield a cell per round, contender and concurrency. Who cannot run is skipped once and not tried again."""
    skipped: set[str] = set()
    for number in range(rounds):
        for contender in contenders:
            if contender.name in skipped:
                continue
            tell(f"round {number + 1} of {rounds}: {contender.name}")
            try:
                own = contender.bench_of(bench)
                for at in [1] if contender.alone else concurrencies:
                    with contender.open(own) as ask:  # anew for each cell: rows that were kept would be for nothing
                        yield asyncio.run(_cell(own, contender.name, ask, at, number))
            except SkippedError as reason:
                skipped.add(contender.name)
                yield Skip(contender.name, str(reason))


async def _cell(bench: Bench, name: str, ask: Ask, concurrency: int, number: int) -> Cell:
    try:
        return await _measured(bench, name, ask, concurrency, number)
    finally:
        if isinstance(ask, peers.HttpAsk):
            await ask.aclose()  # here, where the loop of its connections still runs


async def _measured(bench: Bench, name: str, ask: Ask, concurrency: int, number: int) -> Cell:
    requests = [bench.load.request(i) for i in range(len(bench.load.prompts))]
    # What is loaded at first use is not counted; of the prompts only the template may be kept from this.
    await closed_loop(ask, [bench.load.other(i) for i in range(2)], concurrency=1)
    before = peak_gflops(bench.model)
    cpu, wall = tree_cpu_s(), perf_counter()
    answers, latencies = await closed_loop(ask, requests, concurrency=concurrency)
    cpu, wall = tree_cpu_s() - cpu, perf_counter() - wall
    peak = (before + peak_gflops(bench.model)) / 2
    return Cell(
        contender=name,
        concurrency=concurrency,
        round=number,
        n=len(requests),
        cpu_ms=cpu / len(requests) * 1e3,
        rps=len(requests) / wall,
        p50_ms=statistics.median(latencies) * 1e3,
        p95_ms=p95(latencies) * 1e3,
        peak_gflops=peak,
        fraction=bench.load.new_flops * len(requests) / max(cpu, 1e-9) / (peak * 1e9),
        answers=tuple(answers),
    )
