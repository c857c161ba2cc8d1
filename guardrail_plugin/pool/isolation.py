"""Run a batch so that one bad item fails alone: a failed batch is halved, a dead replica ends the search."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from guardrail_plugin.core.errors import PoolOverloaded
from guardrail_plugin.pool.health import is_out_of_memory, kills_replica
from guardrail_plugin.pool.jobs import AnyJob
from guardrail_plugin.pool.ledger import JobT
from guardrail_plugin.pool.slot import Slot


@dataclass(slots=True)
class Loss:
    """A replica died.

    Attributes:
        error: what it raised.
        suspects: jobs that it was running; one of them may be the reason.
        bystanders: jobs that would have come next, or that it was decoding meanwhile.
    """

    error: BaseException
    suspects: list[AnyJob]
    bystanders: list[AnyJob] = field(default_factory=list)

    @property
    def model(self) -> str:
        """The model whose replica it was."""
        return self.suspects[0].model


class _Book(Protocol):
    def ran_out_of_memory(self, rows: Sequence[AnyJob], *, slot: Slot) -> None: ...

    def refuse(self, job: AnyJob, error: BaseException) -> None: ...

    def wanted(self, jobs: Sequence[JobT]) -> list[JobT]: ...


def isolate(
    parts: Sequence[Sequence[JobT]], run: Callable[[list[JobT]], None], *, queue: _Book, slot: Slot
) -> Loss | None:
    """Run all parts. A part that fails is halved; a single job that fails is refused. Stops when the replica dies."""
    pending = list(reversed(parts))
    while pending:
        part = queue.wanted(pending.pop())
        if not part:
            continue
        failure: BaseException | None = None
        try:
            run(part)
        except BaseException as error:
            failure = error  # handled outside the except block, which would keep the failed batch's tensors alive
        if failure is None:
            continue
        halves = contain(failure, part, queue=queue, slot=slot)
        if isinstance(halves, Loss):
            halves.bystanders.extend(job for rest in pending for job in rest)
            return halves
        pending.extend(reversed(halves))
    return None


def contain(failure: BaseException, part: list[JobT], *, queue: _Book, slot: Slot) -> list[list[JobT]] | Loss:
    """Return the parts to try next: halves, or nothing once a single job was refused; or the loss of the replica."""
    traceback.clear_frames(failure.__traceback__)  # free the tensors, keep file and line
    if kills_replica(failure):
        return Loss(failure, list(part))
    if is_out_of_memory(failure):
        queue.ran_out_of_memory(part, slot=slot)
    if len(part) == 1 or isinstance(failure, PoolOverloaded):  # whoever is too busy for all is for each half
        for job in part:
            queue.refuse(job, failure)
        return []
    middle = len(part) // 2
    return [part[:middle], part[middle:]]
