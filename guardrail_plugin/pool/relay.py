"""Replicas that hand their batches on to another pool, which has tenants and deadlines of its own to keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from guardrail_plugin.pool.jobs import AnyJob, GenerateJob, ScoreJob
from guardrail_plugin.pool.protocol import Decode, GenerateRequest, Replica, ScoreRequest, ScoreResult

_LEAST_S = 0.001  # what is late already still gets an answer from the other pool: that it is late


@dataclass(frozen=True, slots=True)
class Account:
    """On whose account a request runs, and how long it may still take.

    Attributes:
        tenant: as the pool's caller named it.
        timeout_s: from now on; ``None``: as long as it takes.
    """

    tenant: str = ""
    timeout_s: float | None = None


@runtime_checkable
class RelayReplica(Protocol):
    """A replica that wants to know on whose account each request of a batch runs. ``accounts``: one per request."""

    def score_for(self, batch: Sequence[ScoreRequest], accounts: Sequence[Account]) -> Sequence[ScoreResult]:
        """As ``Replica.score``."""

    def start_for(self, batch: Sequence[GenerateRequest], accounts: Sequence[Account]) -> Decode:
        """As ``Replica.start``."""


Accounts: TypeAlias = Callable[[Sequence[AnyJob]], list[Account]]
"""Tells the accounts of jobs. Asked only where somebody wants to know: it takes the pool's lock."""


def account_of(job: AnyJob, deadline: float | None, *, now: float) -> Account:
    """Return what the other pool is told of a job; ``deadline``: of whoever waits longest for its run."""
    return Account(job.tenant, None if deadline is None else max(deadline - now, _LEAST_S))


def score_on(replica: Replica, jobs: Sequence[ScoreJob], accounts: Accounts) -> list[ScoreResult]:
    """Score jobs on a replica; one that relays is told the accounts."""
    batch = [job.request for job in jobs]
    if isinstance(replica, RelayReplica):
        return list(replica.score_for(batch, accounts(jobs)))
    return list(replica.score(batch))


def start_on(replica: Replica, jobs: Sequence[GenerateJob], accounts: Accounts) -> Decode:
    """Begin to decode jobs on a replica; one that relays is told the accounts."""
    batch = [job.remaining() for job in jobs]
    if isinstance(replica, RelayReplica):
        return replica.start_for(batch, accounts(jobs))
    return replica.start(batch)
