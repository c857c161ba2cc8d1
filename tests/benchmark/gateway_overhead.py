"""Measure what the gateway adds to a call, with a guardian that allows everything at once.

Run: ``python tests/benchmark/gateway_overhead.py``. The upstream, the gateway and the clients run in processes of
their own, on loopback. Bare and guarded calls alternate, so that other load on the machine weighs on both. Goal: 3 ms
added at p50, whole answers; ``--streams N`` also runs N streams at once and watches the gateway's memory.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from time import perf_counter

import httpx2
import psutil
from gateway_processes import process, run_upstream

from guardrail_gateway import GatewaySettings, create_app
from guardrail_gateway.testing import serving
from guardrail_plugin import Check
from guardrail_plugin.guardian.protocol import CheckOutcome
from guardrail_plugin.testing import ScriptedGuardian, verdict

GOAL_MS = 3.0
PATH = "/v1/chat/completions"
WORDS = 400
BODY = {"model": "m", "messages": [{"role": "user", "content": "How are you today?"}]}


class Quiet(ScriptedGuardian):
    """Allows everything at once and, unlike other doubles, keeps no texts: its memory would grow."""

    def __init__(self) -> None:
        super().__init__(lambda _: verdict(), guardian_id="allow")

    def check_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Answer, and forget."""
        answers = super().check_many(checks, timeout_s=timeout_s)
        self.batches.clear()
        return answers


def run_gateway(pipe: Connection, upstream: str) -> None:
    """Serve the gateway until the pipe closes."""
    settings = GatewaySettings(
        upstream=f"{upstream}/v1", port=0, max_concurrent=1024, max_concurrent_per_key=1024, cached_verdicts=0
    )
    with serving(create_app(settings, guardian=Quiet()), settings) as url:
        pipe.send(url)
        pipe.recv()


def overhead(bare: str, guarded: str, *, calls: int) -> list[tuple[float, float]]:
    """Return the times of alternating whole answers. Units: milliseconds."""
    with (
        httpx2.Client(base_url=bare, trust_env=False, timeout=30) as one,
        httpx2.Client(base_url=guarded, trust_env=False, timeout=30) as other,
    ):

        def timed(client: httpx2.Client) -> float:
            start = perf_counter()
            client.post(PATH, json=BODY).raise_for_status()
            return (perf_counter() - start) * 1e3

        pairs = [(timed(one), timed(other)) for _ in range(calls + 20)]
        return pairs[20:]


async def streams(url: str, *, count: int) -> tuple[int, float]:
    """Run streams at once. Returns how many were whole, and the slowest one's time. Units: seconds."""
    limits = httpx2.Limits(max_connections=count)
    async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=120, limits=limits) as client:

        async def one() -> tuple[bool, float]:
            start = perf_counter()
            answer = await client.post(PATH, json={**BODY, "stream": True})
            return answer.text.endswith("data: [DONE]\n\n"), perf_counter() - start

        done = await asyncio.gather(*(one() for _ in range(count)))
    return sum(ok for ok, _ in done), max(took for _, took in done)


def main() -> int:
    """Print the figures. Returns 1 with ``--check`` when the goal is missed or a stream was not whole."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3, help="of the concurrent streams")
    parser.add_argument("--check", action="store_true", help="exit 1 when a goal is missed")
    options = parser.parse_args()
    with process(run_upstream, str(WORDS)) as (upstream, _), process(run_gateway, upstream) as (gateway, pid):
        watched = psutil.Process(pid)
        start = watched.cpu_times().user + watched.cpu_times().system
        pairs = overhead(upstream, gateway, calls=options.calls)
        spent = (watched.cpu_times().user + watched.cpu_times().system - start) * 1e3 / options.calls
        bare, guarded = sorted(a for a, _ in pairs), sorted(b for _, b in pairs)
        added = statistics.median(guarded) - statistics.median(bare)
        at = int(len(pairs) * 0.95)
        print(f"whole answers, n={len(pairs)}: p50 bare {statistics.median(bare):.2f} ms, ", end="")
        print(f"gateway {statistics.median(guarded):.2f} ms, added {added:.2f} ms (goal {GOAL_MS} ms)")
        print(f"  p95 bare {bare[at]:.2f} ms, gateway {guarded[at]:.2f} ms")
        missed = added > GOAL_MS
        print(f"  processor time of the gateway: {spent:.2f} ms per answer (a busy machine stretches the times above)")
        for number in range(options.rounds):
            before = watched.memory_info().rss / 1e6
            whole, slowest = asyncio.run(streams(gateway, count=options.streams))
            after = watched.memory_info().rss / 1e6
            missed |= whole != options.streams
            told = f"{whole} whole, slowest {slowest:.1f} s, gateway {before:.0f} -> {after:.0f} MB"
            print(f"{options.streams} streams at once, round {number + 1}: {told}")
    return int(missed and options.check)


if __name__ == "__main__":
    sys.exit(main())
