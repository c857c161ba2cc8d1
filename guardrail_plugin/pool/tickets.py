"""Lists that wait for room in the queue: first come, first served, so that a long list is not overtaken for ever."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

from guardrail_plugin.core.errors import GuardianTimeout
from guardrail_plugin.pool.admission import Fit
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
    def tenant(self) -> str:
        """On whose account they would run."""
        return self.jobs[0].tenant

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
        self._for_room = False

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def for_room(self) -> bool:
        """Whether somebody waits for room, and not only for less of the own tenant's in the queue."""
        return self._for_room

    def lets_by(self, tenant: str) -> bool:
        """Tell whether a newcomer may go straight in: nobody waits for room, and none of the same tenant waits."""
        return not self._for_room and all(ticket.tenant != tenant for ticket in self._waiting)

    def add(self, ticket: Ticket, *, fit: Fit) -> None:
        """Go to the end of the line. ``fit``: why it was not let in."""
        self._waiting.append(ticket)
        self._for_room |= fit == "full"

    def admit(self, admit: Callable[[Sequence[AnyJob]], Fit]) -> None:
        """Let in as many from the front as there is room for. Who is over its share does not hold up other tenants."""
        passed: list[Ticket] = []
        over_share: set[str] = set()
        self._for_room = False
        while self._waiting and not self._for_room:
            ticket = self._waiting[0]
            fit = "over share" if ticket.tenant in over_share else admit(ticket.jobs)
            if fit == "full":
                self._for_room = True
                break
            self._waiting.popleft()
            if fit == "fits":
                ticket.decide()
            else:
                over_share.add(ticket.tenant)
                passed.append(ticket)
        self._waiting.extendleft(reversed(passed))

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
