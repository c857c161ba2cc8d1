"""Measure what ``guard()`` adds to a call, with a guardian that allows everything at once.

Run: ``python tests/benchmark/wrapper_overhead.py``. Bare and guarded calls alternate, so that other load on the
machine weighs on both. Goals: 0.5 ms added at p50 in sequence, 1 ms added per call at 100 concurrent ``ainvoke``.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from collections.abc import Callable
from time import perf_counter

from langchain_core.runnables import Runnable, RunnableLambda

from guardrail_plugin.runnables import guard
from guardrail_plugin.testing import allow_all

SEQUENTIAL_GOAL_MS = 0.5
CONCURRENT_GOAL_MS = 1.0
CONCURRENCY = 100


def echo(text: str) -> str:
    """Stand in for a chain."""
    return text


async def aecho(text: str) -> str:
    """Stand in for a chain that is async through and through."""
    return text


def sequential_ms(bare: Runnable[str, str], guarded: Runnable[str, str], *, calls: int) -> tuple[float, float]:
    """Return the median time of a bare and of a guarded ``invoke``. Units: milliseconds."""

    def timed(call: Callable[[str], str]) -> float:
        start = perf_counter()
        call("how are you?")
        return (perf_counter() - start) * 1e3

    times = [(timed(bare.invoke), timed(guarded.invoke)) for _ in range(calls + calls // 10)][calls // 10 :]
    return statistics.median(t for t, _ in times), statistics.median(t for _, t in times)


async def concurrent_ms(bare: Runnable[str, str], guarded: Runnable[str, str], *, rounds: int) -> tuple[float, float]:
    """Return the median time per call of rounds of concurrent ``ainvoke``. Units: milliseconds."""

    async def timed(chain: Runnable[str, str]) -> float:
        start = perf_counter()
        await asyncio.gather(*(chain.ainvoke("how are you?") for _ in range(CONCURRENCY)))
        return (perf_counter() - start) * 1e3 / CONCURRENCY

    times = [(await timed(bare), await timed(guarded)) for _ in range(rounds + 2)][2:]
    return statistics.median(t for t, _ in times), statistics.median(t for _, t in times)


def main() -> int:
    """Print the figures. Returns 1 with ``--check`` when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=2000, help="sequential calls of each kind")
    parser.add_argument("--rounds", type=int, default=30, help=f"rounds of {CONCURRENCY} concurrent calls of each kind")
    parser.add_argument("--check", action="store_true", help="exit 1 when a goal is missed")
    options = parser.parse_args()
    bare: Runnable[str, str] = RunnableLambda(echo, aecho)
    guarded = guard(bare, guardian=allow_all())
    missed = False
    for label, (without, with_guard), goal in (
        (
            f"sequential invoke, p50, n={options.calls}",
            sequential_ms(bare, guarded, calls=options.calls),
            SEQUENTIAL_GOAL_MS,
        ),
        (
            f"{CONCURRENCY} concurrent ainvoke, per call, median of {options.rounds} rounds",
            asyncio.run(concurrent_ms(bare, guarded, rounds=options.rounds)),
            CONCURRENT_GOAL_MS,
        ),
    ):
        added = with_guard - without
        missed |= added > goal
        print(f"{label}: bare {without:.3f} ms, guarded {with_guard:.3f} ms, added {added:.3f} ms (goal {goal} ms)")
    return int(missed and options.check)


if __name__ == "__main__":
    sys.exit(main())
