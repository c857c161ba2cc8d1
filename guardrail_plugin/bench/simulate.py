"""Simulate a pool: real queue, admission, batching, retries and decodes; virtual replicas, callers and time.

The same seed gives the same result. Time costs nothing: an hour of 64 replicas takes some seconds.
"""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from itertools import count

from guardrail_plugin.bench.outcomes import Outcomes, Simulated
from guardrail_plugin.bench.traffic import Arrival, Traffic
from guardrail_plugin.bench.virtual import MODEL, RESPONSE_PROMPT_TOKENS, Speed, VirtualQueue, VirtualWorker
from guardrail_plugin.core.errors import GuardianTimeout, PoolError
from guardrail_plugin.pool.admission import Limits
from guardrail_plugin.pool.intake import Intake
from guardrail_plugin.pool.jobs import AnyJob
from guardrail_plugin.pool.protocol import GenerateRequest, ScoreRequest, ScoreResult
from guardrail_plugin.pool.slot import Slot
from guardrail_plugin.pool.turns import ScoreTurn, StartTurn, Turn

LIMITS = Limits(max_batch_tokens=1024)
"""Those of ``InferencePool``."""


def simulate(
    *,
    replicas: int,
    load: float,
    requests: int,
    speed: Speed | None = None,
    traffic: Traffic | None = None,
    seed: int = 0,
) -> Simulated:
    """Run a pool under a load: 1.0 is what its replicas can just do in full batches while none of them dies.

    Raises:
        ValueError: a number is not positive.
    """
    if replicas < 1 or requests < 1 or load <= 0:
        raise ValueError("replicas, requests and load must be positive")
    speed = speed or Speed()
    traffic = traffic or Traffic()
    rate = load * replicas * saturated_rate(speed=speed, traffic=traffic)
    with _quiet():
        world = _World(replicas=replicas, speed=speed, traffic=traffic, seed=seed)
        world.run(traffic.arrivals(rate=rate, count=requests, seed=seed))
    deaths = sum(worker.deaths for worker in world.workers)
    return world.outcomes.summary(replicas=replicas, load=load, rate=rate, deaths=deaths, busy=world.busy)


def saturated_rate(*, speed: Speed, traffic: Traffic, requests: int = 800) -> float:
    """Return how many requests per second one replica answers when all are waiting and nothing fails."""
    immortal = replace(speed, mean_life_s=math.inf)
    world = _World(replicas=1, speed=immortal, traffic=traffic, seed=0, patient=True)
    world.run(traffic.arrivals(rate=1e9, count=requests, seed=0))
    return requests / world.now


class _World:
    """One thread plays everybody, in the order of virtual time.

    Attributes:
        busy: share of the replicas' time until the last request came, the work they had begun by then included.
    """

    def __init__(self, *, replicas: int, speed: Speed, traffic: Traffic, seed: int, patient: bool = False) -> None:
        self.now = 0.0
        self.busy = 0.0
        self.outcomes = Outcomes()
        self._traffic = traffic
        self._timeout_s = None if patient else traffic.timeout_s
        slots = [
            Slot(index=i, device="virtual", limits=LIMITS, max_score_streak=4, max_decodes=4) for i in range(replicas)
        ]
        self._queue = VirtualQueue(limits=LIMITS, slots=slots, clock=lambda: self.now)
        self.workers = [
            VirtualWorker(slot=slot, queue=self._queue, clock=lambda: self.now, speed=speed, seed=seed * 1000 + i)
            for i, slot in enumerate(slots)
        ]
        factories = {MODEL: self.workers[0].build}
        self._intake = Intake(factories=factories, clock=lambda: self.now, check=lambda: None)
        self._idle = dict.fromkeys(self.workers)  # ordered: who has been idle longest is asked first
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._tie = count()

    def run(self, arrivals: Iterator[Arrival]) -> None:
        """Play until everybody has an answer or an error."""
        self._queue.open()
        self._expect(arrivals)
        while self._events or self._queue.next_deadline is not None:
            due = self._queue.next_deadline
            if due is not None and (not self._events or due < self._events[0][0]):
                self.now = max(self.now, due)
                self._queue.expire_due()
            else:
                at, _, happen = heapq.heappop(self._events)
                self.now = max(self.now, at)
                happen()
            self._offer_turns()

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._tie), happen))

    def _expect(self, arrivals: Iterator[Arrival]) -> None:
        arrival = next(arrivals, None)
        if arrival is None:
            self.busy = sum(worker.busy_s for worker in self.workers) / (self.now * len(self.workers))
            return

        def come() -> None:
            self._ask(arrival)
            self._expect(arrivals)

        self._at(arrival.at, come)

    def _ask(self, arrival: Arrival) -> None:
        request = ScoreRequest(MODEL, arrival.input_ids, (1,), prefix_len=self._traffic.template_tokens)
        terms = self._intake.terms(timeout_s=self._timeout_s, priority=0)
        job = self._intake.score(request, terms)
        self._submit(job, arrival.tenant)
        if arrival.harmful:
            job.future.add_done_callback(lambda verdict: self._respond(verdict, arrival))

    def _respond(self, verdict: Future[ScoreResult], arrival: Arrival) -> None:
        if verdict.exception() is not None:
            return
        ids = arrival.input_ids + (2,) * RESPONSE_PROMPT_TOKENS
        request = GenerateRequest(MODEL, ids, self._traffic.response_tokens)
        self._submit(self._intake.generate(request, self._intake.terms(timeout_s=None, priority=0)), arrival.tenant)

    def _submit(self, job: AnyJob, tenant: str) -> None:
        job.tenant = tenant
        self.outcomes.asked(job, self.now)
        try:
            self._queue.admit([job], wait=False)
        except (PoolError, GuardianTimeout) as error:
            self.outcomes.turned_away(job, error)
            return
        job.future.add_done_callback(lambda _: self.outcomes.ended(job, self.now))

    def _offer_turns(self) -> None:
        """Ask the idle, as a notified thread would ask."""
        for worker in list(self._idle):
            if not self._queue.waiting:
                return
            turn, until = worker.begin()
            if turn is not None:
                del self._idle[worker]
                self._started(worker, turn, until)
            elif until is not None:
                self._at(until, lambda: None)  # its model is broken until then

    def _started(self, worker: VirtualWorker, turn: Turn, until: float | None) -> None:
        if isinstance(turn, (ScoreTurn, StartTurn)):
            for job in turn.jobs:
                self.outcomes.started(job, self.now)
        self._at(self.now if until is None else until, lambda: self._end(worker))

    def _end(self, worker: VirtualWorker) -> None:
        worker.end()
        self._at(worker.free_at, lambda: self._next(worker))

    def _next(self, worker: VirtualWorker) -> None:
        turn, until = worker.begin()
        if turn is not None:
            self._started(worker, turn, until)
            return
        self._idle[worker] = None
        if until is not None:
            self._at(until, lambda: None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the pool from logging deaths that are wanted."""
    log = logging.getLogger("guardrail_plugin.pool")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)
