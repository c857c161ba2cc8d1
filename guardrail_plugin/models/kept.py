"""Key/value rows that may be needed again: an LRU by bytes with a time limit, searched by longest common prefix."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Ids: TypeAlias = tuple[int, ...]

MIN_REUSE = 8
"""Shorter common prefixes are computed again: looking after them costs more than they save."""

_MOST_SEGMENTS = 4  # a row that extends a row that extends a row ... is copied into one piece from here on


@dataclass(frozen=True, slots=True)
class Prefix:
    """What is kept of a row's beginning.

    Attributes:
        length: leading tokens that are covered.
        segments: their keys and values in order, together (layers, 2, ``length``, kv heads, head width).
    """

    length: int = 0
    segments: tuple[Tensor, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class KeptStats:
    """What the store did so far.

    Attributes:
        rows, bytes: held now.
        lookups: rows that asked.
        hits: rows that found a prefix.
        tokens_reused: tokens that were not computed again.
        evicted: rows dropped for space or age.
    """

    rows: int
    bytes: int
    lookups: int
    hits: int
    tokens_reused: int
    evicted: int


@dataclass(slots=True)
class _Row:
    prefix: Prefix
    used_at: float


class KeptRows:
    """Rows of one set of weights on one device; replicas that share the weights share them. Thread-safe.

    Rows may share segments (a template with many tails); each piece of memory counts once towards ``max_bytes``.
    A row that nobody used for ``max_age_s`` is dropped at the next call.

    Does not: separate tenants. What one caller sent can make another's equal beginning faster, never different.
    """

    def __init__(
        self, *, max_bytes: int, max_age_s: float = 120.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._clock = clock
        self._lock = threading.Lock()
        self._rows: OrderedDict[Ids, _Row] = OrderedDict()  # least recently used first
        self._sorted: list[Ids] = []
        self._owners: dict[int, int] = {}  # storage address -> rows that hold it
        self._bytes = self._lookups = self._hits = self._reused = self._evicted = 0

    def longest(self, ids: Ids, *, most: int) -> Prefix:
        """Return what is kept of the beginning of ``ids``, at most ``most`` tokens; empty below ``MIN_REUSE``."""
        with self._lock:
            self._expire()
            self._lookups += 1
            length, key = self._nearest(ids)
            length = min(length, most)
            if length < MIN_REUSE:
                return Prefix()
            row = self._rows[key]
            row.used_at = self._clock()
            self._rows.move_to_end(key)
            self._hits += 1
            self._reused += length
            return _cut(row.prefix, length)

    def covers(self, ids: Ids) -> bool:
        """Tell whether all of ``ids`` is kept. Does not count as a lookup."""
        with self._lock:
            return self._nearest(ids)[0] == len(ids)

    def put(self, ids: Ids, segments: Sequence[Tensor]) -> None:
        """Keep a row: its segments cover ``ids``. Least recently used rows make room; one larger than all is not kept.

        Does not copy: hand in tensors that share no storage with a larger one.
        """
        prefix = Prefix(len(ids), _joined(segments))
        with self._lock:
            self._expire()
            if ids in self._rows or sum(_storage(s)[1] for s in prefix.segments) > self.max_bytes:
                return
            self._rows[ids] = _Row(prefix, self._clock())
            self._sorted.insert(bisect_left(self._sorted, ids), ids)
            for segment in prefix.segments:
                address, size = _storage(segment)
                self._bytes += 0 if address in self._owners else size
                self._owners[address] = self._owners.get(address, 0) + 1
            while self._bytes > self.max_bytes:
                self._drop(next(iter(self._rows)))

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            while self._rows:
                self._drop(next(iter(self._rows)))

    @property
    def stats(self) -> KeptStats:
        """The counters of this moment."""
        with self._lock:
            return KeptStats(len(self._rows), self._bytes, self._lookups, self._hits, self._reused, self._evicted)

    # Below: the lock is held.

    def _nearest(self, ids: Ids) -> tuple[int, Ids]:
        # In sorted order nothing shares a longer beginning with ids than its two neighbours.
        at = bisect_left(self._sorted, ids)
        near = self._sorted[max(0, at - 1) : at + 1]
        return max(((_common(ids, key), key) for key in near), default=(0, ()))

    def _expire(self) -> None:
        oldest = self._clock() - self._max_age_s
        while self._rows and next(iter(self._rows.values())).used_at < oldest:
            self._drop(next(iter(self._rows)))

    def _drop(self, ids: Ids) -> None:
        row = self._rows.pop(ids)
        del self._sorted[bisect_left(self._sorted, ids)]
        self._evicted += 1
        for segment in row.prefix.segments:
            address, size = _storage(segment)
            self._owners[address] -= 1
            if self._owners[address] == 0:
                del self._owners[address]
                self._bytes -= size


def _common(one: Ids, other: Ids) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _cut(prefix: Prefix, length: int) -> Prefix:
    segments: list[Tensor] = []
    left = length
    for segment in prefix.segments:
        if left <= 0:
            break
        segments.append(segment if segment.shape[2] <= left else segment[:, :, :left])
        left -= segment.shape[2]
    return Prefix(length, tuple(segments))


def _joined(segments: Sequence[Tensor]) -> tuple[Tensor, ...]:
    if len(segments) <= _MOST_SEGMENTS:
        return tuple(segments)
    import torch

    return (torch.cat(list(segments), dim=2),)


def _storage(segment: Tensor) -> tuple[int, int]:
    """Return address and bytes of the memory behind a segment, which may be a view of it."""
    storage = segment.untyped_storage()
    return storage.data_ptr(), storage.nbytes()
