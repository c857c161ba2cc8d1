"""What the threads of a pool share, behind one lock: the scheduler, the blocked callers, the counters, the endings.

Futures are only marked as running under the lock, never resolved: a caller's done-callback may come back into the pool.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from guardrail_plugin.core.errors import PoolClosed
from guardrail_plugin.pool.admission import Fit, Limits
from guardrail_plugin.pool.forecast import Caution, Pace
from guardrail_plugin.pool.jobs import AnyJob, GenerateJob
from guardrail_plugin.pool.residents import Residents
from guardrail_plugin.pool.scheduler import Scheduler
from guardrail_plugin.pool.slot import Slot
from guardrail_plugin.pool.stats import Ending, Phase, PoolStats, Tally
from guardrail_plugin.pool.tickets import Tickets

JobT = TypeVar("JobT", bound=AnyJob)  # of who asks about jobs of one kind

CLOSED: dict[Phase, str] = {
    "new": "the pool has not been entered: use it inside 'with InferencePool() as pool:' or 'async with'",
    "draining": "the pool is closing",
    "closed": "the pool is closed",
}


class Ledger:
    """State and endings. ``JobQueue`` adds the ways in and the turns.

    Attributes:
        phase: of the pool.
        slots: who takes work.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        slots: Sequence[Slot],
        clock: Callable[[], float],
        max_model_bytes: int | None = None,
    ) -> None:
        self.phase: Phase = "new"
        self.slots = list(slots)
        self._clock = clock
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)  # workers wait for something to run
        self._timer = threading.Condition(self._lock)  # the timekeeper waits for the next deadline
        self._idle = threading.Condition(self._lock)  # close waits for the last job to end
        self._scheduler: Scheduler[AnyJob] = Scheduler(limits)
        self._tickets = Tickets()
        self._abandoned: deque[AnyJob] = deque()  # appended to without the lock, also by the garbage collector
        self._tally = Tally()
        self._pace = Pace()
        self._caution = Caution()
        self._residents = Residents(max_model_bytes)
        self._timer_until: float | None = None

    def open(self) -> None:
        """Begin to admit.

        Raises:
            PoolClosed: it was open before.
        """
        with self._lock:
            if self.phase != "new":
                raise PoolClosed("a pool is entered once; make a new one")
            self.phase = "open"

    def widen(self, slot: Slot, devices: Sequence[str]) -> list[Slot]:
        """Put a slot on the first device and add slots like it on the others. Nothing while the pool is not open."""
        with self._lock:
            if self.phase != "open" or not devices:
                return []
            slot.device = devices[0]
            first = len(self.slots)
            news = [slot.twin(index=first + i, device=device) for i, device in enumerate(devices[1:])]
            self.slots += news
            return news

    def built(self, slot: Slot, model: str, *, nbytes: int) -> None:
        """Note a new replica; the models that must make room for it are closed when their slots have a moment."""
        with self._lock:
            self._crowd_out(slot, self._residents.came(slot.device, model, slot=slot.index, nbytes=nbytes))

    def closed(self, slot: Slot, model: str) -> None:
        """Note that a slot has no replica of the model any more."""
        with self._lock:
            slot.unwanted.discard(model)
            self._residents.left(slot.device, model, slot=slot.index)

    def needs_room(self, slot: Slot, model: str) -> None:
        """Ask all other models to leave the device of a slot."""
        with self._lock:
            self._crowd_out(slot, self._residents.others(slot.device, model))

    def drain(self, drain_s: float) -> None:
        """Admit no more, and wait until everything has ended, at most ``drain_s``."""
        with self._lock:
            if self.phase == "open":
                self.phase = "draining"
            self._tickets.refuse(lambda: PoolClosed(CLOSED["draining"]))
            until = self._clock() + drain_s
            while self.phase == "draining" and self._scheduler.live and (left := until - self._clock()) > 0:
                self._idle.wait(left)

    def shut(self) -> None:
        """End everything that is left with ``PoolClosed`` and send the threads home."""
        with self._lock:
            self.phase = "closed"
            self._tickets.refuse(lambda: PoolClosed(CLOSED["closed"]))
            left = self._finish(self._scheduler.items(), "failed")
            for condition in (self._work, self._timer, self._idle):
                condition.notify_all()
        for job in left:
            job.fail(PoolClosed("the pool was closed before this request was answered"))

    def finish(self, jobs: Iterable[AnyJob], how: Ending) -> list[AnyJob]:
        """End jobs and return those that had not ended: the caller, and nobody else, must answer these.

        An answer or a failure also ends whoever has joined their runs; a cancelled job leaves alone.
        """
        with self._lock:
            return self._finish(jobs, how)

    def wait_due(self) -> list[AnyJob] | None:
        """Wait until deadlines pass, and return the jobs that they ended. ``None``: the pool is closed."""
        with self._lock:
            while self.phase != "closed":
                now = self._clock()
                self._tally.rejected += self._tickets.expire(now)
                self._room_was_made()
                if due := self._expire(now):
                    return due
                ends = (self._scheduler.next_deadline(), self._tickets.next_deadline())
                self._timer_until = min((end for end in ends if end is not None), default=None)
                self._timer.wait(None if self._timer_until is None else self._timer_until - now)
        return None

    def snapshot(self) -> PoolStats:
        """Return the counters of this moment."""
        with self._lock:
            self._drop_abandoned()
            tally, now = self._tally, self._clock()
            return PoolStats(
                phase=self.phase,
                queued=self._scheduler.queued,
                queued_tokens=self._scheduler.queued_tokens,
                blocked=len(self._tickets),
                running=self._scheduler.running,
                joined=self._scheduler.joined,
                tenants=self._scheduler.tenants(now),
                submitted=tally.submitted,
                completed=tally.completed,
                failed=tally.failed,
                cancelled=tally.cancelled,
                expired=tally.expired,
                rejected=tally.rejected,
                coalesced=self._scheduler.coalesced,
                batches=tally.batches,
                tokens=tally.tokens,
                tokens_per_s=self._pace.tokens_per_s or 0.0,
                decode_steps=tally.decode_steps,
                mean_batch_size=tally.mean_batch_size,
                padding_ratio=tally.padding_ratio,
                oom_splits=tally.oom_splits,
                replica_restarts=sum(slot.restarts for slot in self.slots),
                wait_s=tally.waits.distribution().total,
                execution_s=tally.execution_s,
                waits=tally.waits.distribution(),
                runs=tally.runs.distribution(),
                sizes=tally.sizes.distribution(),
                slots=tuple(slot.stats(now) for slot in self.slots),
            )

    # Below: the lock is held.

    def _crowd_out(self, slot: Slot, models: Sequence[str]) -> None:
        for model in models:
            for index in self._residents.slots(slot.device, model):  # slot.models comes only after a slot's first turn
                self.slots[index].unwanted.add(model)
        if models:
            self._work.notify_all()

    def _finish(self, jobs: Iterable[AnyJob], how: Ending) -> list[AnyJob]:
        if how == "cancelled":
            ended = [job for job in jobs if self._scheduler.finish(job)]
        else:
            ended = [one for job in jobs for one in self._scheduler.settle(job)]
        for job in ended:
            self._tally.ended(how)
            if how == "completed":
                self._learn(job, in_time=True)
        self._room_was_made()
        return ended

    def _expire(self, now: float) -> list[AnyJob]:
        expired = self._scheduler.expire(now)
        for job in expired:
            self._tally.ended("expired")
            self._learn(job, in_time=False)
        if expired:
            self._room_was_made()
        return expired

    def _learn(self, job: AnyJob, *, in_time: bool) -> None:
        if job.estimate_s is not None and job.timeout_s is not None:
            now = self._clock()
            took_s = now - job.enqueued_at if in_time else math.inf
            self._caution.saw(estimated_s=job.estimate_s, took_s=took_s, allowed_s=job.timeout_s, now=now)

    def _enqueue(self, jobs: Sequence[AnyJob], now: float) -> Fit:
        fit = self._scheduler.admit(jobs, now)
        if fit != "fits":
            return fit
        self._tally.submitted += len(jobs)
        self._wake_timer(min((job.deadline for job in jobs if job.deadline is not None), default=None))
        self._wake_workers(now)
        return "fits"

    def _requeue(self, jobs: Iterable[AnyJob], now: float) -> None:
        for job in map(self._leader, jobs):
            if isinstance(job, GenerateJob) and job.state == "running":
                left = job.remaining()
                job.tokens, job.reserve = left.tokens, left.max_new_tokens
            self._scheduler.requeue([job])
        self._wake_workers(now)

    def _leader(self, job: AnyJob) -> AnyJob:
        """Return who leads the job's run by now: it has another leader where the first was cancelled or expired."""
        return self._scheduler.leader(job) or job

    def _drop_abandoned(self) -> None:
        while self._abandoned:
            job = self._abandoned.popleft()
            if job.state in ("queued", "joined"):  # a running one is stopped by its worker
                self._finish([job], "cancelled")

    def _room_was_made(self) -> None:
        """Let blocked callers in, and tell ``drain`` when the last job has gone."""
        now = self._clock()
        self._tickets.admit(lambda jobs: self._enqueue(jobs, now))  # an empty line, too: it notes that none waits
        if not self._scheduler.live:
            self._idle.notify_all()

    def _wake_workers(self, now: float) -> None:
        # One is enough: it passes the word on when it leaves something behind. But one for whom the model is broken
        # would keep the news to itself, so then all are woken.
        if any(slot.broken(now) for slot in self.slots):
            self._work.notify_all()
        else:
            self._work.notify()

    def _wake_timer(self, deadline: float | None) -> None:
        if deadline is not None and (self._timer_until is None or deadline < self._timer_until):
            self._timer_until = deadline
            self._timer.notify()
