"""Counters of a pool, and the frozen record that ``InferencePool.stats`` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Ending: TypeAlias = Literal["completed", "failed", "cancelled", "expired"]
Phase: TypeAlias = Literal["new", "open", "draining", "closed"]
SlotPhase: TypeAlias = Literal["idle", "building", "scoring", "decoding", "retired"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotStats:
    """One slot: a worker thread with its replicas on one device.

    Attributes:
        device: as given to the replica factories.
        phase: what its thread does now; ``retired``: it could not be kept alive.
        models: models with a living replica here.
        broken: models that are not tried here for a while, because their replicas could not be built or kept dying.
        decoding_rows: generations in progress.
        budget_tokens: per model, the largest padded batch after out-of-memory errors (only where there were any).
        restarts: replicas and threads that were replaced.
    """

    device: str
    phase: SlotPhase
    models: tuple[str, ...]
    broken: tuple[str, ...]
    decoding_rows: int
    budget_tokens: tuple[tuple[str, int], ...]
    restarts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats:
    """A pool at one moment. Counts are since the pool was made.

    ``submitted == completed + failed + cancelled + expired + queued + running``; rejected requests were not submitted.

    Attributes:
        blocked: callers that wait for room in the queue (``on_full="wait"``, lists larger than the queue).
        expired: ended by their deadline, queued or running.
        mean_batch_size: rows per score batch or prefill.
        padding_ratio: share of padding in all batch tokens, 0..1.
        wait_s: time from admission to the start of the batch, summed over requests.
        execution_s: time inside replicas, summed over slots.
    """

    phase: Phase
    queued: int
    queued_tokens: int
    blocked: int
    running: int
    submitted: int
    completed: int
    failed: int
    cancelled: int
    expired: int
    rejected: int
    batches: int
    decode_steps: int
    mean_batch_size: float
    padding_ratio: float
    oom_splits: int
    replica_restarts: int
    wait_s: float
    execution_s: float
    slots: tuple[SlotStats, ...]


@dataclass(slots=True)
class Tally:
    """The running counters behind ``PoolStats``. Its owner holds a lock."""

    submitted: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    rejected: int = 0
    batches: int = 0
    rows: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    decode_steps: int = 0
    oom_splits: int = 0
    wait_s: float = 0.0
    execution_s: float = 0.0

    def ended(self, how: Ending) -> None:
        """Count one request that left."""
        if how == "completed":
            self.completed += 1
        elif how == "failed":
            self.failed += 1
        elif how == "cancelled":
            self.cancelled += 1
        else:
            self.expired += 1

    @property
    def mean_batch_size(self) -> float:
        """Rows per batch."""
        return self.rows / self.batches if self.batches else 0.0

    @property
    def padding_ratio(self) -> float:
        """Share of padding in all batch tokens."""
        return 1.0 - self.tokens / self.padded_tokens if self.padded_tokens else 0.0
