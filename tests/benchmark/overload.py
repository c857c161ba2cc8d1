"""Offer a pool three times what it can do, and see that it turns the rest away at once, forgets nobody and recovers.

Run: ``python tests/benchmark/overload.py --seconds 60`` (a scripted replica), ``--guardian`` for the embedded guardian.
Goals: accepted requests' p99 is under the deadline, p99 of a rejection under 50 ms, each request ends once and rightly,
memory is bounded, and within one second after the load a request is answered again. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import GuardianTimeout, PoolOverloaded
from guardrail_plugin.core.verdict import Verdict
from guardrail_plugin.pool import Decode, GenerateRequest, InferencePool, ScoreRequest, ScoreResult

OVERLOAD = 3.0
REJECTION_GOAL_S = 0.05
RECOVERY_GOAL_S = 1.0
TENANTS = ("a", "b", "c")

Ask = Callable[[int, float], Awaitable[object]]
"""Number and time limit -> the right answer or an error; anything else is a wrong answer."""


class SteadyReplica:
    """Takes a fixed time per row, and answers with the number that the request carries."""

    def __init__(self, *, row_s: float) -> None:
        self._row_s = row_s

    def score(self, batch: Sequence[ScoreRequest]) -> list[ScoreResult]:
        """Take the time that the batch costs."""
        time.sleep(self._row_s * len(batch))
        return [ScoreResult((float(request.input_ids[0]), 0.0)) for request in batch]

    def start(self, batch: Sequence[GenerateRequest]) -> Decode:
        """Refuse: nothing here decodes."""
        raise NotImplementedError

    def close(self) -> None:
        """Do nothing."""


@dataclass(slots=True)
class Seen:
    """What became of the requests. ``ended`` counts by number: each must be there once."""

    accepted_s: list[float] = field(default_factory=list)
    rejected_s: list[float] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    ended: Counter[int] = field(default_factory=Counter)
    retry_after_s: list[float] = field(default_factory=list)

    async def one(self, ask: Ask, number: int, deadline_s: float) -> None:
        """Ask once and note the outcome."""
        started = time.perf_counter()
        outcome = await ask(number, deadline_s)
        seconds = time.perf_counter() - started
        self.ended[number] += 1
        self.kinds[type(outcome).__name__] += 1
        if isinstance(outcome, PoolOverloaded):
            self.rejected_s.append(seconds)
            self.retry_after_s.append(outcome.retry_after_s)
        else:
            self.accepted_s.append(seconds)


def scripted(pool: InferencePool, *, row_s: float) -> Ask:
    """Return how to ask a scripted replica."""
    pool.register("m", lambda _: SteadyReplica(row_s=row_s))

    async def ask(number: int, deadline_s: float) -> object:
        request = ScoreRequest("m", (number, *range(number % 40)), (1, 2))
        tenant = TENANTS[number % len(TENANTS)]
        outcome = (await pool.ascore_many([request], timeout_s=deadline_s, tenant=tenant))[0]
        if isinstance(outcome, ScoreResult) and outcome.logprobs[0] != number:
            return "somebody else's answer"
        return outcome

    return ask


def guarding(pool: InferencePool) -> Ask:
    """Return how to ask the embedded guardian."""
    from guardrail_plugin import Guardian

    guardian = Guardian.load(pool=pool)

    async def ask(number: int, deadline_s: float) -> object:
        check = Check(f"How do I bake bread number {number} for {number % 7} people?")
        return (await guardian.acheck_many([check], timeout_s=deadline_s))[0]

    return ask


async def capacity(ask: Ask, *, seconds: float, callers: int = 64) -> float:
    """Return requests per second with callers that wait for their answers."""
    await ask(10**6, 600.0)  # loads the model
    done = 0
    end = time.perf_counter() + seconds

    async def caller(number: int) -> None:
        nonlocal done
        while time.perf_counter() < end:
            number += callers
            outcome = await ask(number, 600.0)
            done += isinstance(outcome, ScoreResult | Verdict)

    started = time.perf_counter()
    await asyncio.gather(*(caller(2 * 10**6 + i) for i in range(callers)))
    return done / (time.perf_counter() - started)


async def offer(ask: Ask, seen: Seen, *, rate: float, seconds: float, deadline_s: float) -> int:
    """Offer requests at a rate, whatever becomes of them; return how many."""
    tasks: set[asyncio.Task[None]] = set()
    started = time.perf_counter()
    offered = 0
    while (passed := time.perf_counter() - started) < seconds:
        while offered < passed * rate:
            task = asyncio.create_task(seen.one(ask, offered, deadline_s))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            offered += 1
        await asyncio.sleep(0.002)
    await asyncio.gather(*list(tasks))
    return offered


async def recovery_s(ask: Ask, *, deadline_s: float) -> float:
    """Return how long after the load a request is answered again."""
    started = time.perf_counter()
    number = 9 * 10**6
    while not isinstance(await ask(number, deadline_s), ScoreResult | Verdict):
        number += 1
        await asyncio.sleep(0.01)
    return time.perf_counter() - started


def quantile(values: Sequence[float], q: float) -> float:
    """Return a quantile; 0 of nothing."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))] if values else 0.0


async def run(options: argparse.Namespace) -> dict[str, object]:
    """Measure and return the figures."""
    async with InferencePool(max_queued=options.max_queued, replicas=1 if options.scripted else None) as pool:
        ask = scripted(pool, row_s=options.row_ms / 1000) if options.scripted else guarding(pool)
        able = await capacity(ask, seconds=options.warmup_s)
        deadline_s = options.deadline_s or max(1.0, 20 / able)
        seen = Seen()
        before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        offered = await offer(ask, seen, rate=able * OVERLOAD, seconds=options.seconds, deadline_s=deadline_s)
        recovered_s = await recovery_s(ask, deadline_s=deadline_s)
        after_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        stats = pool.stats()
    once = set(seen.ended.values()) == {1} and len(seen.ended) == offered
    balanced = stats.submitted == stats.completed + stats.failed + stats.cancelled + stats.expired
    return {
        "capacity_per_s": round(able, 1),
        "deadline_s": round(deadline_s, 3),
        "offered": offered,
        "outcomes": dict(seen.kinds),
        "accepted_p50_s": round(quantile(seen.accepted_s, 0.5), 3),
        "accepted_p99_s": round(quantile(seen.accepted_s, 0.99), 3),
        "expired_of_accepted": round(seen.kinds[GuardianTimeout.__name__] / max(1, len(seen.accepted_s)), 4),
        "rejected_p50_ms": round(quantile(seen.rejected_s, 0.5) * 1e3, 2),
        "rejected_p99_ms": round(quantile(seen.rejected_s, 0.99) * 1e3, 2),
        "retry_after_p50_s": round(quantile(seen.retry_after_s, 0.5), 3),
        "recovery_s": round(recovered_s, 3),
        "peak_memory_grew_mb": round(after_mb - before_mb, 1),
        "each_ended_once": once and balanced,
        "goals_met": once
        and balanced
        and quantile(seen.accepted_s, 0.99) < deadline_s
        and quantile(seen.rejected_s, 0.99) < REJECTION_GOAL_S
        and recovered_s < RECOVERY_GOAL_S
        and not seen.kinds["str"],
    }


def main() -> int:
    """Print the figures. Returns 1 with ``--check`` when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--warmup-s", type=float, default=3.0)
    parser.add_argument("--deadline-s", type=float, default=0.0, help="0: one second, or what 20 requests take")
    parser.add_argument("--max-queued", type=int, default=1024)
    parser.add_argument("--row-ms", type=float, default=5.0, help="what a row costs the scripted replica")
    parser.add_argument("--guardian", dest="scripted", action="store_false", help="the embedded guardian instead")
    parser.add_argument("--check", action="store_true", help="exit 1 when a goal is missed")
    options = parser.parse_args()
    figures = asyncio.run(run(options))
    print(json.dumps(figures, indent=2))
    return int(options.check and not figures["goals_met"])


if __name__ == "__main__":
    sys.exit(main())
