"""The decodes in progress on one slot. Advanced one step at a time, so that verdicts go in between."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from guardrail_plugin.pool.isolation import Loss, contain, isolate
from guardrail_plugin.pool.jobqueue import JobQueue
from guardrail_plugin.pool.jobs import GenerateJob
from guardrail_plugin.pool.lane import Room
from guardrail_plugin.pool.protocol import Decode, FinishReason, Replica, RowFailed, Token
from guardrail_plugin.pool.relay import start_on
from guardrail_plugin.pool.shelf import close_quietly
from guardrail_plugin.pool.slot import Slot


@dataclass(slots=True, eq=False)
class _Open:
    """One decode and its live rows by row number. ``begun``: it has brought a token or ended a row."""

    model: str
    replica: Replica
    decode: Decode
    rows: dict[int, GenerateJob]
    begun: bool = False

    @property
    def room(self) -> Room:
        """Rows and cached tokens with padding."""
        longest = max((job.request.tokens + len(job.token_ids) for job in self.rows.values()), default=0)
        return Room(len(self.rows), len(self.rows) * longest)


class Decodes:
    """Used by one thread. Decodes take turns, one step each."""

    def __init__(self, *, queue: JobQueue, slot: Slot, clock: Callable[[], float]) -> None:
        self._queue = queue
        self._slot = slot
        self._clock = clock
        self._open: deque[_Open] = deque()

    def start(self, parts: Sequence[Sequence[GenerateJob]], replica: Replica) -> Loss | None:
        """Open the rows; each part becomes a decode of its own. Replicas may run the prompts in its first steps."""

        def run(part: list[GenerateJob]) -> None:
            started = self._clock()
            decode = start_on(replica, part, self._queue.accounts)
            self._open.append(_Open(part[0].model, replica, decode, dict(enumerate(part))))
            self._queue.ran(part, slot=self._slot, seconds=self._clock() - started, backlog=False)

        loss = isolate(parts, run, queue=self._queue, slot=self._slot)
        self._note()
        return loss

    def step(self) -> Loss | None:
        """Advance the decode whose turn it is by one token per row."""
        if not self._open:
            self._note()
            return None
        current = self._open.popleft()
        failure: BaseException | None = None
        try:
            self._advance(current)
        except BaseException as error:
            failure = error
        if failure is None and current.rows:
            self._open.append(current)
            self._note()
            return None
        close_quietly(current.decode)
        self._note()
        return None if failure is None else self._recover(current, failure)

    def runs(self, model: str) -> bool:
        """Tell whether a decode of this model is in progress."""
        return any(one.model == model for one in self._open)

    def drop(self, model: str | None = None) -> list[GenerateJob]:
        """Close the decodes of a model, or all, and return their unfinished jobs."""
        dropped = [one for one in self._open if model is None or one.model == model]
        self._open = deque(one for one in self._open if one not in dropped)
        for one in dropped:
            close_quietly(one.decode)
        self._note()
        return [job for one in dropped for job in one.rows.values()]

    def _advance(self, current: _Open) -> None:
        self._cancel_unwanted(current)
        if not current.rows:
            return
        started = self._clock()
        try:
            news = current.decode.step()
        except RowFailed as failed:
            if failed.row in current.rows:
                self._queue.refuse(current.rows.pop(failed.row), failed.error)
            return
        seconds = self._clock() - started
        first = not current.begun and any(map(_brings, news))
        current.begun = current.begun or first
        self._queue.stepped(current.model, slot=self._slot, seconds=seconds, first=first)
        if not news:
            raise RuntimeError("the decode ended before its rows did")
        self._deliver(current, news)

    def _deliver(self, current: _Open, news: Sequence[Token]) -> None:
        for token in news:
            job = current.rows.get(token.row)
            if job is None:
                continue
            if token.token_id is not None:
                job.emit(token.token_id)
            if token.finish_reason is not None:
                self._end(current, token.row, token.finish_reason)
        for row, job in list(current.rows.items()):
            if len(job.token_ids) >= job.request.max_new_tokens:  # whatever the replica says: no row is endless
                current.decode.cancel(row)
                self._end(current, row, "length")

    def _cancel_unwanted(self, current: _Open) -> None:
        for row, job in list(current.rows.items()):
            if job.abandoned or job.state != "running":
                current.decode.cancel(row)
                self._end(current, row, "cancelled")

    def _end(self, current: _Open, row: int, reason: FinishReason) -> None:
        job = current.rows.pop(row)
        for ended in self._queue.finish([job], "cancelled" if reason == "cancelled" else "completed"):
            if isinstance(ended, GenerateJob):
                ended.answer(ended.generation(reason))

    def _recover(self, current: _Open, failure: BaseException) -> Loss | None:
        """Go on with each half of the rows apart, from the tokens they have; a single row that failed is refused."""
        jobs = list(current.rows.values())
        if not jobs:
            return None
        halves = contain(failure, jobs, queue=self._queue, slot=self._slot)
        return halves if isinstance(halves, Loss) else self.start(halves, current.replica)

    def _note(self) -> None:
        self._slot.set_decodes(tuple(one.room for one in self._open))


def _brings(token: Token) -> bool:
    return token.token_id is not None or token.finish_reason not in (None, "cancelled")
