"""Lists that wait for room in the queue: first come, first served, so that a long list is not overtaken for ever."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

from guardrail_plugin.core.errors import GuardianTimeout
from guardrail_plugin.pool.jobs import AnyJob


@dataclass(slots=True, eq=False)
class Ticket:
    """One list of jobs whose caller is blocked until all of them are queued.

    Attributes:
        decided: done when the jobs are queued or ``error`` is set.
        error: why they will not be queued.
    """

    jobs: Sequence[AnyJob]
    decided: Future[None] = field(default_factory=Future)
    error: Exception | None = None

    @property
    def deadline(self) -> float | None:
        """The earliest deadline of its jobs."""
        return min((job.deadline for job in self.jobs if job.deadline is not None), default=None)

    @property
    def timeout_s(self) -> float:
        """What its caller allowed."""
        return min((job.timeout_s for job in self.jobs if job.timeout_s is not None), default=0.0)

    def decide(self, error: Exception | None = None) -> None:
        """Wake the caller."""
        self.error = error
        with suppress(InvalidStateError):  # the waiting task was cancelled
            self.decided.set_result(None)


class Tickets:
    """Blocked callers, in order. Its owner holds a lock. Bounded by the number of callers, since each is blocked."""

    def __init__(self) -> None:
        self._waiting: deque[Ticket] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, ticket: Ticket) -> None:
        """Go to the end of the line."""
        self._waiting.append(ticket)

    def admit(self, admit: Callable[[Sequence[AnyJob]], bool]) -> None:
        """Let in as many from the front as ``admit`` takes."""
        while self._waiting and admit(self._waiting[0].jobs):
            self._waiting.popleft().decide()

    def withdraw(self, ticket: Ticket) -> None:
        """Leave the line; no error if it has been decided."""
        if ticket in self._waiting:
            self._waiting.remove(ticket)

    def refuse(self, error: Callable[[], Exception], *, model: str | None = None) -> None:
        """Turn away everybody, or everybody who needs this model."""
        keep: deque[Ticket] = deque()
        for ticket in self._waiting:
            if model is None or any(job.model == model for job in ticket.jobs):
                ticket.decide(error())
            else:
                keep.append(ticket)
        self._waiting = keep

    def expire(self, now: float) -> int:
        """Turn away everybody whose deadline has passed; return how many requests that were."""
        late = [t for t in self._waiting if t.deadline is not None and t.deadline <= now]
        for ticket in late:
            self._waiting.remove(ticket)
            ticket.decide(GuardianTimeout(ticket.timeout_s))
        return sum(len(ticket.jobs) for ticket in late)

    def next_deadline(self) -> float | None:
        """Return the earliest deadline."""
        return min((t.deadline for t in self._waiting if t.deadline is not None), default=None)
