"""Run the gateway under steady load, then at twice that load, and watch what it keeps.

Run: ``python tests/benchmark/gateway_soak.py --minutes 30 --rate 20``. The guardian gives ``--checks-per-second`` at
most and refuses what would wait too long, as a real pool does. Steady load must lose nothing, refuse nothing, and keep
memory, tasks and sockets flat; at twice the guardian's rate what is refused must be a 429, and what is accepted must
stay fast. Half of the requests are streams; one in ten leaves in the middle.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import httpx2
import psutil
from gateway_processes import process, run_upstream

from guardrail_gateway import GatewaySettings, create_app
from guardrail_gateway.testing import serving
from guardrail_plugin import Check, PoolOverloaded
from guardrail_plugin.guardian.protocol import CheckOutcome
from guardrail_plugin.testing import verdict

PATH = "/v1/chat/completions"
LEAVERS = 0.1
MAX_WAIT_S = 1.0
GROWTH_MB = 20.0


class PacedGuardian:
    """Allows everything, at a fixed number of checks per second; refuses what would wait longer than a second."""

    id = "paced"

    def __init__(self, rate: float) -> None:
        self._each_s = 1.0 / rate
        self._free_at_s = 0.0

    async def acheck_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Take a turn for each check."""
        now = time.monotonic()
        start = max(now, self._free_at_s)
        if start - now > MAX_WAIT_S:
            return [PoolOverloaded("full", retry_after_s=start - now) for _ in checks]
        self._free_at_s = start + self._each_s * len(checks)
        await asyncio.sleep(self._free_at_s - now)
        return [verdict(rail=check.rail) for check in checks]

    def check_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Not used by the gateway."""
        raise NotImplementedError

    def respond(self, check: Check, verdict: object, *, timeout_s: float | None = None) -> str:
        """Not used: nothing is blocked."""
        raise NotImplementedError

    async def arespond(self, check: Check, verdict: object, *, timeout_s: float | None = None) -> str:
        """Not used: nothing is blocked."""
        raise NotImplementedError


def run_gateway(pipe: Connection, upstream: str, rate: str) -> None:
    """Serve the gateway until the pipe says stop."""
    settings = GatewaySettings(upstream=f"{upstream}/v1", port=0, window="answer", cached_verdicts=0)
    with serving(create_app(settings, guardian=PacedGuardian(float(rate))), settings) as url:
        pipe.send(url)
        pipe.recv()


@dataclass
class Tally:
    """What became of the requests of one phase."""

    outcomes: Counter[str] = field(default_factory=Counter)
    accepted_s: list[float] = field(default_factory=list)

    def p95_s(self) -> float:
        """Return the accepted requests' 95th percentile."""
        return sorted(self.accepted_s)[int(len(self.accepted_s) * 0.95)] if self.accepted_s else 0.0


async def ask(client: httpx2.AsyncClient, tally: Tally) -> None:
    """Send one request and note its end."""
    stream, leaves = random.random() < 0.5, random.random() < LEAVERS
    body = {"model": "m", "messages": [{"role": "user", "content": "How are you?"}], "stream": stream}
    start = time.monotonic()
    try:
        if leaves:
            await client.post(PATH, json=body, timeout=0.02)
        answer = await client.post(PATH, json=body)
    except httpx2.TimeoutException:
        tally.outcomes["left" if leaves else "lost"] += 1
        return
    except httpx2.HTTPError as error:
        tally.outcomes[f"lost: {type(error).__name__}"] += 1
        return
    whole = answer.text.endswith("data: [DONE]\n\n") if stream else answer.text.endswith("}")
    refused = answer.status_code == 429 or '"code":"overloaded"' in answer.text
    answered = answer.status_code == 200 and whole
    name = "refused" if refused else "answered" if answered else f"lost: {answer.status_code}"
    tally.outcomes[name] += 1
    if name == "answered":
        tally.accepted_s.append(time.monotonic() - start)


async def load(url: str, *, rate: float, seconds: float) -> Tally:
    """Send requests at a rate, whether or not the earlier ones have been answered."""
    tally = Tally()
    running: set[asyncio.Task[None]] = set()
    limits = httpx2.Limits(max_connections=400, max_keepalive_connections=50)
    async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=60, limits=limits) as client:
        end, due = time.monotonic() + seconds, time.monotonic()
        while time.monotonic() < end:
            task = asyncio.create_task(ask(client, tally))
            running.add(task)
            task.add_done_callback(running.discard)
            due += 1 / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await asyncio.gather(*running)
    return tally


async def watched_load(url: str, pid: int, *, rate: float, seconds: float) -> tuple[Tally, list[float]]:
    """Send requests at a rate. Returns what became of them, and the gateway's memory in MB, minute by minute."""
    memory: list[float] = []

    async def watch() -> None:
        while True:
            await asyncio.sleep(60.0)
            memory.append(psutil.Process(pid).memory_info().rss / 1e6)

    watching = asyncio.create_task(watch())
    try:
        return await load(url, rate=rate, seconds=seconds), memory
    finally:
        watching.cancel()


def kept(pid: int, url: str) -> tuple[float, int, float]:
    """Return the gateway's memory in MB, its open sockets, and the requests it still works on."""
    watched = psutil.Process(pid)
    text = httpx2.get(f"{url}/metrics", trust_env=False).text
    name = "guardrail_gateway_running "
    running = next(float(line.split()[1]) for line in text.splitlines() if line.startswith(name))
    return watched.memory_info().rss / 1e6, len(watched.net_connections()), running - 1  # this request is one


def main() -> int:
    """Print the figures. Returns 1 when something was lost, refused at steady load, or kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=20.0, help="requests per second, steady")
    parser.add_argument("--overload-seconds", type=float, default=60.0)
    options = parser.parse_args()
    capacity = options.rate * 2 * 1.25  # two checks per request, and some room
    with process(run_upstream, "20") as (upstream, _), process(run_gateway, upstream, str(capacity)) as (url, pid):
        asyncio.run(load(url, rate=options.rate, seconds=10))  # what is built once is built now
        before, failed = kept(pid, url), False
        for name, rate, seconds in (
            ("steady", options.rate, options.minutes * 60),
            ("2x load", options.rate * 2.5, options.overload_seconds),
            ("steady again", options.rate, min(30.0, options.minutes * 60)),
        ):
            tally, memory = asyncio.run(watched_load(url, pid, rate=rate, seconds=seconds))
            after = kept(pid, url)
            lost = sum(count for outcome, count in tally.outcomes.items() if outcome.startswith("lost"))
            print(f"{name}: {rate:g}/s for {seconds:g} s: {dict(tally.outcomes)}, p95 {tally.p95_s():.2f} s")
            print(
                f"  memory {before[0]:.0f} -> {after[0]:.0f} MB, sockets {before[1]} -> {after[1]}, left {after[2]:g}"
            )
            print(f"  memory by the minute: {' '.join(f'{held:.0f}' for held in memory)}", flush=True)
            failed |= bool(lost) or after[2] != 0 or after[0] - before[0] > GROWTH_MB
            failed |= name == "steady" and tally.outcomes["refused"] > 0
    print("FAILED" if failed else "held")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
