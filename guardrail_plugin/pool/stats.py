"""Counters of a pool, and the frozen record that ``InferencePool.stats`` returns."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from guardrail_plugin.pool.protocol import KeepingFactory, ReplicaFactory

Ending: TypeAlias = Literal["completed", "failed", "cancelled", "expired"]
Phase: TypeAlias = Literal["new", "open", "draining", "closed"]
SlotPhase: TypeAlias = Literal["idle", "building", "scoring", "decoding", "retired"]


SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """How values are spread.

    Attributes:
        bounds: upper ends of the buckets, themselves included; the last bucket has none.
        counts: values per bucket, one more than bounds.
        total: their sum.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """How many values."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Their mean; 0 if there are none."""
        return self.total / self.count if self.count else 0.0

    def quantile(self, q: float) -> float:
        """Return the upper end of the bucket of a quantile: ``math.inf`` in the last one, 0 if there are no values."""
        rank, seen = q * self.count, 0
        for bound, count in zip((*self.bounds, math.inf), self.counts, strict=True):
            seen += count
            if count and seen >= rank:
                return bound
        return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixStats:
    """What the replicas of one model need not compute again, because its keys and values are kept.

    Attributes:
        model: its key on the pool.
        rows, nbytes: kept now.
        lookups: rows that asked.
        hits: rows that found something.
        tokens_reused: tokens that were not computed again.
    """

    model: str
    rows: int
    nbytes: int
    lookups: int
    hits: int
    tokens_reused: int


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

    ``submitted == completed + failed + cancelled + expired + queued + joined + running``; rejected requests were not
    submitted.

    Attributes:
        joined: requests that wait for the run of an equal one; they are in neither ``queued`` nor ``running``.
        coalesced: requests that ever joined one.
        tenants: that have asked for something in the last seconds.
        blocked: callers that wait for room in the queue (``on_full="wait"``, lists larger than the queue).
        expired: ended by their deadline, queued or running.
        mean_batch_size: rows per score batch or opened decode.
        padding_ratio: share of padding in all batch tokens, 0..1.
        wait_s: time from admission to the start of the batch, summed over requests.
        execution_s: time inside replicas, summed over slots.
        tokens: prompt tokens that were run, padding left out.
        tokens_per_s: scored by one slot, while work was waiting; 0 until it has been measured.
        waits: ``wait_s`` request by request.
        runs: seconds per score batch or opened decode.
        sizes: rows per score batch or opened decode.
        prefixes: per model that keeps keys and values.
    """

    phase: Phase
    queued: int
    queued_tokens: int
    blocked: int
    running: int
    joined: int
    tenants: int
    submitted: int
    completed: int
    failed: int
    cancelled: int
    expired: int
    rejected: int
    coalesced: int
    batches: int
    tokens: int
    tokens_per_s: float
    decode_steps: int
    mean_batch_size: float
    padding_ratio: float
    oom_splits: int
    replica_restarts: int
    wait_s: float
    execution_s: float
    waits: Distribution
    runs: Distribution
    sizes: Distribution
    prefixes: tuple[PrefixStats, ...] = ()
    slots: tuple[SlotStats, ...]


def prefix_stats(factories: Mapping[str, ReplicaFactory]) -> Iterator[PrefixStats]:
    """Ask the factories whose replicas keep keys and values."""
    for model, factory in list(factories.items()):
        if isinstance(factory, KeepingFactory):
            rows, nbytes, lookups, hits, tokens_reused = factory.kept_counts()
            yield PrefixStats(
                model=model, rows=rows, nbytes=nbytes, lookups=lookups, hits=hits, tokens_reused=tokens_reused
            )


class Histogram:
    """Counts per bucket. Its owner holds a lock."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def distribution(self) -> Distribution:
        """Return the counts of this moment."""
        return Distribution(bounds=self._bounds, counts=tuple(self._counts), total=self._total)


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
    execution_s: float = 0.0
    waits: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    runs: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    sizes: Histogram = field(default_factory=lambda: Histogram(ROWS))

    def began(self, waited_s: float | None) -> None:
        """Count a request that left the queue; ``None``: it had left it before."""
        if waited_s is not None:
            self.waits.add(waited_s)

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
