"""The pool's own queue and workers in virtual time: nobody waits, whoever would says until when."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from guardrail_plugin.core.errors import ReplicaDead
from guardrail_plugin.pool.admission import Limits
from guardrail_plugin.pool.jobqueue import JobQueue
from guardrail_plugin.pool.protocol import GenerateRequest, Replica, ScoreRequest, ScoreResult, Token
from guardrail_plugin.pool.slot import Slot
from guardrail_plugin.pool.turns import ScoreTurn, StartTurn, StepTurn, Turn
from guardrail_plugin.pool.worker import Worker

MODEL = "guardian"

POISON = 1
"""The first id of a request on which the model fails."""

RESPONSE_PROMPT_TOKENS = 8
"""What a response's prompt adds to its verdict's."""


class _WouldWaitError(Exception):
    """Raised where a thread of a real pool would go to sleep, with the seconds after which it would look again."""

    def __init__(self, seconds: float | None) -> None:
        super().__init__()
        self.seconds = seconds


class _Unwaitable(threading.Condition):
    def wait(self, timeout: float | None = None) -> bool:
        raise _WouldWaitError(timeout)


class VirtualQueue(JobQueue):
    """The real queue for one thread that plays all others."""

    def __init__(self, *, limits: Limits, slots: Sequence[Slot], clock: Callable[[], float]) -> None:
        super().__init__(limits=limits, slots=slots, max_attempts=3, clock=clock)
        self._work = _Unwaitable(self._lock)
        self._timer = _Unwaitable(self._lock)

    @property
    def waiting(self) -> int:
        """Queued requests."""
        return self._scheduler.queued

    @property
    def next_deadline(self) -> float | None:
        """When the timekeeper would wake."""
        return self._scheduler.next_deadline()

    def poll(self, slot: Slot) -> tuple[Turn | None, float | None]:
        """Return the slot's next turn, or ``None`` and the seconds after which to ask again without other news."""
        try:
            return self.next_turn(slot), None
        except _WouldWaitError as idle:
            return None, idle.seconds

    def expire_due(self) -> None:
        """Do the timekeeper's work of this moment."""
        try:
            while due := self.wait_due():
                for job in due:
                    job.expire()
        except _WouldWaitError:
            return


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast a replica is, and how it fails.

    The defaults are one core of the machine of the survey (EPYC, AVX2, float32, packed engine): 168 ms for a verdict
    alone, 109 ms in a batch of 64, both with 29.4 tokens behind the kept template; decoding 78, 192 and 355 ms per step
    with 1, 8 and 32 rows.

    Attributes:
        batch_s: once per batch.
        token_s: per token that is not kept.
        step_s: once per decode step.
        step_row_s: per row of a decode step.
        build_s: to build a replica.
        mean_life_s: busy seconds after which a replica dies, on average (exponential).
    """

    batch_s: float = 0.059
    token_s: float = 0.0037
    step_s: float = 0.085
    step_row_s: float = 0.009
    build_s: float = 5.0
    mean_life_s: float = 600.0

    def score_s(self, batch: Sequence[ScoreRequest]) -> float:
        """Return the seconds of a forward pass."""
        return self.batch_s + self.token_s * sum(request.tokens - request.prefix_len for request in batch)

    def start_s(self, rows: int) -> float:
        """Return the seconds of a prefill: each row runs the few tokens that its verdict has not kept."""
        return self.batch_s + self.token_s * RESPONSE_PROMPT_TOKENS * rows

    def step_each_s(self, rows: float) -> float:
        """Return the seconds of a decode step."""
        return self.step_s + self.step_row_s * rows


class VirtualReplica:
    """Takes time and now and then dies. Fails on requests that begin with ``POISON``.

    Args:
        speed: how much time.
        spend: lets the time pass; returns whether the replica survives it.

    Attributes:
        open_decodes: decodes in progress.
    """

    def __init__(self, *, speed: Speed, spend: Callable[[float], bool]) -> None:
        self._speed = speed
        self._spend = spend
        self.open_decodes = 0

    def score(self, batch: Sequence[ScoreRequest]) -> list[ScoreResult]:
        """Answer that the only label is certain."""
        self._live(self._speed.score_s(batch))
        if any(request.input_ids[0] == POISON for request in batch):
            raise ValueError("the model fails on one of these")
        return [ScoreResult((0.0,))] * len(batch)

    def start(self, batch: Sequence[GenerateRequest]) -> VirtualDecode:
        """Prefill."""
        self._live(self._speed.start_s(len(batch)))
        self.open_decodes += 1
        return VirtualDecode(self, [request.max_new_tokens for request in batch])

    def step(self, rows: int) -> None:
        """Decode one token per row."""
        self._live(self._speed.step_each_s(rows))

    def close(self) -> None:
        """Do nothing: there is nothing to free."""

    def _live(self, seconds: float) -> None:
        if not self._spend(seconds):
            raise ReplicaDead("its time had come")


class VirtualDecode:
    """Emits the token 0 until each row has as many as it asked for."""

    def __init__(self, replica: VirtualReplica, lengths: Sequence[int]) -> None:
        self._replica = replica
        self._left = dict(enumerate(lengths))
        self._open = True

    def step(self) -> list[Token]:
        """Advance every row."""
        self._replica.step(len(self._left))
        for row in self._left:
            self._left[row] -= 1
        news = [Token(row, 0, "length" if left <= 0 else None) for row, left in self._left.items()]
        self._left = {row: left for row, left in self._left.items() if left > 0}
        return news

    def cancel(self, row: int) -> None:
        """Drop a row."""
        self._left.pop(row, None)

    def close(self) -> None:
        """Leave the replica."""
        self._replica.open_decodes -= self._open
        self._open = False


class VirtualWorker(Worker):
    """The real worker, whose turns are begun and ended by the simulation instead of a thread.

    Attributes:
        busy_s: time in replicas.
        deaths: replicas that died here.
        free_at: end of its turn.
    """

    def __init__(self, *, slot: Slot, queue: VirtualQueue, clock: Callable[[], float], speed: Speed, seed: int) -> None:
        super().__init__(
            slot=slot,
            queue=queue,
            factories={MODEL: self.build},
            clock=lambda: self.free_at,
            stop=threading.Event(),
            on_death=lambda _: None,
            on_build=lambda *_: None,
        )
        self.busy_s = 0.0
        self.deaths = 0
        self.free_at = 0.0
        self._virtual_queue = queue
        self._world_clock = clock
        self._speed = speed
        self._luck = random.Random(seed)
        self._turn: Turn | None = None
        self._replica_here: VirtualReplica | None = None

    def begin(self) -> tuple[Turn | None, float | None]:
        """Take a turn: return it and the time of its end. Without one, when to ask again (``None``: at other news)."""
        now = self._world_clock()
        if self._replica_here is None and not self.deaths:
            self.free_at = now
            self._shelf.get(MODEL)  # warm from the start
        self._turn, pause = self._virtual_queue.poll(self.slot)
        if self._turn is None:
            return None, None if pause is None else now + pause
        self.free_at = now
        building = self._speed.build_s if self._replica_here is None else 0.0
        return self._turn, now + building + self._seconds(self._turn)

    def end(self) -> None:
        """Do what the turn says; ``free_at`` is later than promised where a batch had to be run in parts."""
        turn, self._turn = self._turn, None
        if turn is None:
            return
        if isinstance(turn, ScoreTurn) and all(job.state == "done" for job in turn.jobs):
            self._in_vain(turn)
            return
        loss = self._play(turn)
        if loss is not None:
            self.deaths += 1
            self._replica_here = None
            self._bury(loss)
        self._tidy()

    def _in_vain(self, turn: ScoreTurn) -> None:
        """All callers have gone since the turn began. A real worker would have been at it when they went."""
        seconds = self._seconds(turn)
        self._spend(seconds)
        self._virtual_queue.ran(turn.jobs, slot=self.slot, seconds=seconds, backlog=turn.backlog)

    def _seconds(self, turn: Turn) -> float:
        if isinstance(turn, ScoreTurn):
            return self._speed.score_s([job.request for job in turn.jobs])
        if isinstance(turn, StartTurn):
            return self._speed.start_s(len(turn.jobs))
        if isinstance(turn, StepTurn) and self._replica_here is not None:
            decodes = max(1, self._replica_here.open_decodes)
            return self._speed.step_each_s(self.slot.stats(self.free_at).decoding_rows / decodes)
        return 0.0

    def build(self, device: str) -> Replica:
        """Build a replica in virtual time."""
        if self.deaths:
            self.free_at += self._speed.build_s
        self._replica_here = VirtualReplica(speed=self._speed, spend=self._spend)
        return self._replica_here

    def _spend(self, seconds: float) -> bool:
        self.free_at += seconds
        self.busy_s += seconds
        return self._luck.random() * self._speed.mean_life_s >= seconds
