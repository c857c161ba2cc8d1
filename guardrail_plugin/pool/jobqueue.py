"""The ways into the pool's queue, the turns that workers take, and what becomes of work when a replica dies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from guardrail_plugin.core.errors import GuardianTimeout, PoolClosed, PoolOverloaded, ReplicaDead
from guardrail_plugin.pool.admission import Fit, Limits
from guardrail_plugin.pool.forecast import retry_after_s
from guardrail_plugin.pool.isolation import Loss
from guardrail_plugin.pool.jobs import AnyJob, GenerateJob, ScoreJob
from guardrail_plugin.pool.lane import Kind, Room
from guardrail_plugin.pool.ledger import CLOSED, JobT, Ledger
from guardrail_plugin.pool.relay import Account, account_of
from guardrail_plugin.pool.shelf import no_replica
from guardrail_plugin.pool.slot import Slot
from guardrail_plugin.pool.tickets import Ticket
from guardrail_plugin.pool.turns import ExpireTurn, ScoreTurn, StartTurn, StepTurn, TidyTurn, Turn

_NO_ROOM: dict[Fit, str] = {"full": "the queue is full", "over share": "this tenant's part of the queue is full"}

_UNMEASURED_ROWS = 16


class JobQueue(Ledger):
    """Thread-safe. Jobs that a method ends are answered by it, after it has let go of the lock."""

    def __init__(
        self,
        *,
        limits: Limits,
        slots: Sequence[Slot],
        max_attempts: int,
        clock: Callable[[], float],
        max_model_bytes: int | None = None,
    ) -> None:
        super().__init__(limits=limits, slots=slots, clock=clock, max_model_bytes=max_model_bytes)
        self._max_attempts = max_attempts

    # -- callers

    def admit(self, jobs: Sequence[AnyJob], *, wait: bool) -> Ticket | None:
        """Queue all jobs or none. With ``wait`` a list that does not fit now gets a ticket instead of an error.

        Raises:
            PoolClosed: the pool is not open.
            GuardianTimeout: the deadline has passed.
            PoolOverloaded: the queue is full, the list is longer than the queue, or the deadline cannot be met.
            ReplicaDead: no slot can run the model at present.
        """
        with self._lock:
            if self.phase != "open":
                raise PoolClosed(CLOSED[self.phase])
            self._drop_abandoned()
            now = self._clock()
            for model in {job.model for job in jobs}:
                if (broken := self._broken(model, now)) is not None:
                    raise broken
            if late := [job for job in jobs if job.deadline is not None and job.deadline <= now]:
                raise GuardianTimeout(late[0].timeout_s or 0.0)
            if not self._scheduler.could_fit(jobs):
                raise self._too_large(jobs)
            if self._too_late(jobs, now):
                raise self._overloaded("the estimated wait is longer than the deadline allows", jobs)
            for job in jobs:
                job.future.on_cancel = partial(self.withdraw, job)
            fit: Fit = "full" if self._tickets.for_room else "over share"
            if self._tickets.lets_by(jobs[0].tenant) and (fit := self._enqueue(jobs, now)) == "fits":
                return None
            if not wait:
                raise self._overloaded(_NO_ROOM[fit], jobs)
            ticket = Ticket(jobs)
            self._tickets.add(ticket, fit=fit)
            self._wake_timer(ticket.deadline)
            return ticket

    def withdraw(self, job: AnyJob) -> None:
        """Give up a job whose future was cancelled."""
        self.finish([job], "cancelled")

    def withdraw_ticket(self, ticket: Ticket) -> None:
        """Leave the line for room. The jobs may have been queued meanwhile: withdraw these too."""
        with self._lock:
            self._tickets.withdraw(ticket)
            self._room_was_made()

    def abandon(self, job: AnyJob) -> None:
        """Give up a job for which nobody waits. Takes no lock: the garbage collector may call it anywhere."""
        if not job.future.done():
            job.abandoned = True
            self._abandoned.append(job)

    # -- workers

    def next_turn(self, slot: Slot) -> Turn | None:
        """Wait for what this slot should do next. ``None``: the pool is closed."""
        with self._lock:
            while self.phase != "closed":
                now = self._clock()
                self._drop_abandoned()
                if expired := self._expire(now):
                    return ExpireTurn(expired)
                if (turn := self._choose(slot, now)) is not None:
                    return turn
                if slot.unwanted:
                    return TidyTurn()
                slot.phase = "idle"
                mends_at = slot.mends_at(now)
                self._work.wait(None if mends_at is None else max(0.0, mends_at - now))
        return None

    def wanted(self, jobs: Sequence[JobT]) -> list[JobT]:
        """Return who leads the jobs' runs by now, where somebody still waits for the answer; end the others."""
        with self._lock:
            leaders = [(self._wanted(job), job) for job in jobs]
        return [leader for leader, job in leaders if isinstance(leader, type(job))]

    def accounts(self, jobs: Sequence[AnyJob]) -> list[Account]:
        """Return on whose account each run is, and until when, for replicas that hand it on."""
        with self._lock:
            now = self._clock()
            return [account_of(job, self._scheduler.patience(job), now=now) for job in jobs]

    def ran(self, rows: Sequence[AnyJob], *, slot: Slot, seconds: float, backlog: bool) -> None:
        """Note a score batch that went through, or a decode that was opened. ``backlog``: it had left others waiting.

        Opening computes nothing on most replicas (the prompts are run in the first steps): so it tells nothing of the
        speed, and nothing of whether the model works and fits.
        """
        tokens = sum(job.tokens for job in rows)
        with self._lock:
            tally = self._tally
            tally.batches += 1
            tally.rows += len(rows)
            tally.tokens += tokens
            tally.padded_tokens += _padded(rows)
            tally.execution_s += seconds
            tally.runs.add(seconds)
            tally.sizes.add(len(rows))
            if rows[0].kind == "score":
                self._went_well(rows[0].model, "score", slot)
                loaded = backlog or self._as_good_as_full(rows, slot)
                self._pace.add(rows[0].model, tokens, seconds, loaded=loaded)
            elif self._scheduler.waits("score"):
                self._pace.lost(seconds)

    def stepped(self, model: str, *, slot: Slot, seconds: float, first: bool) -> None:
        """Note a decode step. ``first``: of its decode the first that brought a token, or ended a row."""
        with self._lock:
            self._tally.decode_steps += 1
            self._tally.execution_s += seconds
            if first:
                self._went_well(model, "generate", slot)
            if self._scheduler.waits("score"):
                self._pace.lost(seconds)

    def ran_out_of_memory(self, rows: Sequence[AnyJob], *, slot: Slot) -> None:
        """Note a batch that did not fit."""
        with self._lock:
            self._tally.oom_splits += 1
            slot.budget(rows[0].model, rows[0].kind).shrink(_padded(rows))

    def refuse(self, job: AnyJob, error: BaseException) -> None:
        """Fail one job on which the model failed."""
        for ended in self.finish([job], "failed"):
            ended.refuse(error)

    # -- when something is gone

    def replica_died(self, slot: Slot, loss: Loss) -> None:
        """Run the work of a dead replica again: suspects alone, each at most ``max_attempts`` times."""
        with self._lock:
            now = self._clock()
            slot.restarts += 1
            suspects = [self._leader(job) for job in loss.suspects]
            if all(job.attempts == 0 for job in suspects):
                slot.circuit(loss.model).died(loss.error, now)
            given_up = self._try_again(suspects, now)
            self._requeue(loss.bystanders, now)
            stranded = self._end_if_broken(loss.model, now)
        for job in given_up:
            job.fail(self._died_under(job, loss.error))
        for job in stranded:
            job.fail(no_replica(job.model, loss.error))

    def replica_not_built(self, slot: Slot, jobs: Sequence[AnyJob], *, error: BaseException) -> None:
        """Leave work to other slots; where none can run the model, fail everything that needs it at once."""
        with self._lock:
            now = self._clock()
            slot.circuit(jobs[0].model).failed(error, now)
            self._requeue(jobs, now)
            stranded = self._end_if_broken(jobs[0].model, now)
        for job in stranded:
            job.fail(no_replica(job.model, error))

    def thread_died(self, slot: Slot, error: BaseException) -> None:
        """Take back what a dead worker thread had in its hands."""
        with self._lock:
            slot.restarts += 1
            slot.barren_deaths += 1
            slot.models = ()
            slot.set_decodes(())
            held = [job for job in self._scheduler.items() if job.owner == slot.index and job.state == "running"]
            given_up = self._try_again(held, self._clock())
        for job in given_up:
            job.fail(self._died_under(job, error))

    def retire(self, slot: Slot) -> None:
        """Do without a slot whose thread cannot be kept alive. If it was the last, nobody is left to wait for."""
        with self._lock:
            slot.phase = "retired"
            gone = all(other.phase == "retired" for other in self.slots)
            if gone:
                self._tickets.refuse(_no_threads)
            stranded = self._finish(self._scheduler.items(), "failed") if gone else []
        for job in stranded:
            job.fail(_no_threads())

    # Below: the lock is held.

    def _choose(self, slot: Slot, now: float) -> Turn | None:
        broken = slot.broken(now)
        while True:
            score = self._scheduler.oldest("score", now, skip=broken)
            decode = self._scheduler.oldest("generate", now, skip=broken)
            room = slot.room(decode) if decode is not None else None
            kind = slot.turns.choose(score=score is not None, generate=room is not None or slot.decoding)
            if kind is None:
                return None
            if kind == "score" and score is not None and (score_room := slot.room(score)) is not None:
                if rows := [job for job in self._take(score, score_room, slot) if isinstance(job, ScoreJob)]:
                    return ScoreTurn(rows, backlog=self._scheduler.queued > 0)
            elif decode is None or room is None:
                return StepTurn()
            elif starts := [job for job in self._take(decode, room, slot) if isinstance(job, GenerateJob)]:
                return StartTurn(starts)

    def _take(self, anchor: AnyJob, room: Room, slot: Slot) -> list[AnyJob]:
        now = self._clock()
        self._residents.used(slot.device, anchor.model)
        rows = []
        if anchor.kind == "score":
            room = self._in_time(anchor, room, now)
        for job in self._scheduler.take(anchor, room, now=now, owner=slot.index):
            leader = self._start(job, now)
            if leader is not None:
                rows.append(leader)
        if self._scheduler.queued:
            self._wake_workers(now)
        self._room_was_made()
        return rows

    def _in_time(self, anchor: AnyJob, room: Room, now: float) -> Room:
        """Return the part of a batch's room that can be run before its oldest row is due, but not less than half."""
        if anchor.deadline is None:
            return room
        token_s = self._pace.token_s(anchor.model)
        if token_s is None:
            return Room(min(room.rows, _UNMEASURED_ROWS), room.tokens)  # so that the speed is soon known
        tokens = (anchor.deadline - now) / self._caution.factor(now) / token_s
        if anchor.tokens > tokens:
            return room  # too late anyhow
        return Room(room.rows, int(min(room.tokens, max(tokens, room.tokens / 2))))

    def _start(self, job: AnyJob, now: float) -> AnyJob | None:
        """Mark a job's future as running; if its caller has gone, that of the next who waits for its run, if any."""
        leader = self._wanted(job)
        while leader is not None:
            first = not leader.future.running()
            if leader.future.begin():
                self._tally.began(now - leader.enqueued_at if first else None)
                return leader
            self._finish([leader], "cancelled")
            leader = self._wanted(job)
        return None

    def _wanted(self, job: AnyJob) -> AnyJob | None:
        """Return who leads a job's run, once those who do not care any more have left; ``None`` if it is over."""
        leader = self._scheduler.leader(job)
        while leader is not None and leader.abandoned:
            self._finish([leader], "cancelled")
            leader = self._scheduler.leader(job)
        return leader if leader is not None and leader.state == "running" else None

    def _try_again(self, suspects: Sequence[AnyJob], now: float) -> list[AnyJob]:
        for job in suspects:
            job.attempts += 1
            job.solo = True
        self._requeue([job for job in suspects if job.attempts < self._max_attempts], now)
        return self._finish([job for job in suspects if job.attempts >= self._max_attempts], "failed")

    def _end_if_broken(self, model: str, now: float) -> list[AnyJob]:
        if self._broken(model, now) is None:
            return []
        self._tickets.refuse(lambda: self._broken(model, now) or _no_threads(), model=model)
        return self._finish([j for j in self._scheduler.items() if j.model == model and j.state == "queued"], "failed")

    def _broken(self, model: str, now: float) -> ReplicaDead | None:
        circuits = [slot.circuit(model) for slot in self.slots if slot.phase != "retired"]
        if not circuits:
            return _no_threads()
        return no_replica(model, circuits[0].error) if all(circuit.is_open(now) for circuit in circuits) else None

    def _went_well(self, model: str, kind: Kind, slot: Slot) -> None:
        slot.budget(model, kind).fitted()
        slot.circuit(model).answered()

    def _as_good_as_full(self, rows: Sequence[AnyJob], slot: Slot) -> bool:
        budget = slot.budget(rows[0].model, rows[0].kind).tokens
        return 2 * _padded(rows) >= budget or 2 * len(rows) >= self._scheduler.limits.max_batch

    def _too_late(self, jobs: Sequence[AnyJob], now: float) -> bool:
        # Optimistic on purpose: decodes are not foreseen. What turns out late expires.
        deadline = min((job.deadline for job in jobs if job.deadline is not None), default=None)
        token_s = self._pace.token_s(jobs[0].model)
        if deadline is None or token_s is None or jobs[0].kind == "generate":
            return False
        if not self._scheduler.waits("score") and any(slot.phase == "idle" for slot in self.slots):
            return False
        known = partial(self._token_s, or_else=token_s)
        work_s = self._scheduler.work_ahead(jobs, now, token_s=known, slots=self._working)
        if not work_s:
            return False
        # It is answered when the whole batch that it is in has run, on one slot.
        batch_s = max(slot.budget(jobs[0].model).tokens for slot in self.slots) * token_s
        wait_s = work_s / self._working + min(work_s, batch_s)
        for job in jobs:
            job.estimate_s = wait_s
        return now + wait_s * self._caution.factor(now) > deadline

    def _token_s(self, model: str, *, or_else: float) -> float:
        return self._pace.token_s(model) or or_else

    @property
    def _working(self) -> int:
        return sum(slot.phase != "retired" for slot in self.slots)

    def _too_large(self, jobs: Sequence[AnyJob]) -> PoolOverloaded:
        limits = self._scheduler.limits
        tokens = sum(job.tokens for job in jobs)
        asked = f"a list of {len(jobs)} requests with {tokens} tokens is larger than the whole queue"
        room = f"{limits.max_queued} requests, {limits.max_queued_tokens} tokens"
        return self._overloaded(f"{asked} ({room}): submit it in parts, or use score_many", jobs)

    def _overloaded(self, reason: str, jobs: Sequence[AnyJob]) -> PoolOverloaded:
        self._tally.rejected += len(jobs)
        pace = self._pace.tokens_per_s
        wait_s = None
        if pace and self._working:
            waiting = self._scheduler.work_waiting(partial(self._token_s, or_else=1 / pace))
            wait_s = sum(waiting.values()) / self._working
        return PoolOverloaded(reason, retry_after_s=retry_after_s(wait_s))

    def _died_under(self, job: AnyJob, error: BaseException) -> ReplicaDead:
        what = f"{self._max_attempts} replicas of {job.model!r} died under this request ({type(error).__name__})"
        failure = ReplicaDead(what)
        failure.__cause__ = error
        return failure


def _padded(rows: Sequence[AnyJob]) -> int:
    return len(rows) * max(job.tokens for job in rows)


def _no_threads() -> ReplicaDead:
    return ReplicaDead("no worker thread of this pool could be kept alive")
