"""From threads to callers. Waiting is written once, as generators of futures, with a sync and an async driver."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TypeAlias

from guardrail_plugin.core.errors import GuardianTimeout, PoolError
from guardrail_plugin.pool.admission import Limits
from guardrail_plugin.pool.jobqueue import JobQueue
from guardrail_plugin.pool.jobs import AnyJob, ScoreJob
from guardrail_plugin.pool.protocol import ScoreResult

Flow: TypeAlias = Generator["Future[None]", None, None]
"""Yields what it waits for. Closing it early gives up what it started."""


def drive(flow: Flow) -> None:
    """Run a flow in this thread."""
    try:
        for step in flow:
            step.result()
    finally:
        flow.close()


async def adrive(flow: Flow) -> None:
    """Run a flow in this event loop. Cancellation: closes the flow."""
    try:
        for step in flow:
            if not step.done():
                await asyncio.wrap_future(step)
    finally:
        flow.close()


def queue_in(queue: JobQueue, jobs: Sequence[AnyJob], *, wait: bool) -> Flow:
    """Get the jobs into the queue, all at once.

    Raises:
        PoolError, GuardianTimeout: they were not let in.
    """
    ticket = queue.admit(jobs, wait=wait)
    if ticket is None:
        return
    try:
        yield ticket.decided
    except BaseException:
        queue.withdraw_ticket(ticket)
        raise
    if ticket.error is not None:
        raise ticket.error


def settle(queue: JobQueue, jobs: Sequence[AnyJob], *, wait: bool) -> Flow:
    """Get the jobs into the queue and wait until each has its answer or error. Closing it withdraws the others."""
    try:
        yield from queue_in(queue, jobs, wait=wait)
        yield all_done([job.future.add_done_callback for job in jobs])
    finally:
        for job in jobs:
            if not job.future.cancel():  # no effect on what is done
                queue.abandon(job)


class ScoreMany:
    """Score a list of any length.

    A list that the queue can hold goes in as one unit. A longer one goes in parts of a quarter of the queue, each after
    the one before has been answered, so that it neither fails nor shuts others out.

    Attributes:
        outcomes: results and errors so far, in order.
    """

    def __init__(self, jobs: Sequence[ScoreJob], *, queue: JobQueue, limits: Limits, wait: bool) -> None:
        self.outcomes: list[ScoreResult | Exception] = []
        self._jobs = jobs
        self._queue = queue
        self._limits = limits
        self._wait = wait

    def flow(self) -> Flow:
        """Wait for all parts. Once a part is turned away the rest is too: their places hold the error."""
        for part in split(self._jobs, self._limits):
            try:
                # The caller is blocked anyway: later parts wait for room.
                yield from settle(self._queue, part, wait=self._wait or bool(self.outcomes))
            except (PoolError, GuardianTimeout) as error:
                self.outcomes += [error] * (len(self._jobs) - len(self.outcomes))
                return
            self.outcomes += [outcome(job) for job in part]


def outcome(job: ScoreJob) -> ScoreResult | Exception:
    """Return the answer or the error of a job that is done."""
    try:
        return job.future.result()
    except Exception as error:
        return error


def split(jobs: Sequence[ScoreJob], limits: Limits) -> Iterator[Sequence[ScoreJob]]:
    """Yield the list whole if the queue can hold it, else parts of a quarter of the queue; at least one job each."""
    if len(jobs) <= limits.max_queued and sum(job.tokens for job in jobs) <= limits.max_queued_tokens:
        if jobs:
            yield jobs
        return
    start = tokens = 0
    for at, job in enumerate(jobs):
        full = at - start >= max(1, limits.max_queued // 4) or tokens + job.tokens > limits.max_queued_tokens // 4
        if full and at > start:
            yield jobs[start:at]
            start, tokens = at, 0
        tokens += job.tokens
    yield jobs[start:]


def all_done(subscribe: Sequence[Callable[[Callable[[object], None]], None]]) -> Future[None]:
    """Return a future that is done when every one of the callbacks it hands out has been called."""
    done: Future[None] = Future()
    lock = threading.Lock()
    left = len(subscribe)

    def one_less(_: object) -> None:
        nonlocal left
        with lock:
            left -= 1
            last = left == 0
        if last:
            with suppress(InvalidStateError):  # the waiting task was cancelled
                done.set_result(None)

    for add_callback in subscribe:
        add_callback(one_less)
    return done
