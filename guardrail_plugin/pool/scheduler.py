"""What runs next: a pure state machine. No threads, no clock of its own, no futures.

An item is ``new``, then ``queued``, then ``running``, then ``done``; ``requeue`` takes it back from running to queued.
Whoever makes it ``done`` (``finish`` or ``expire``) is the only one who may answer it: so each leaves exactly once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Generic

from guardrail_plugin.pool.lane import ItemT, Kind, Lane, LazyHeap, Room


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of the queue and of a batch.

    Attributes:
        max_queued: waiting requests; each item of a list counts.
        max_queued_tokens: their tokens.
        max_batch: rows of a batch.
        max_batch_tokens: its tokens, padding counted.
    """

    max_queued: int = 1024
    max_queued_tokens: int = 262_144
    max_batch: int = 64
    max_batch_tokens: int = 4096


class Scheduler(Generic[ItemT]):
    """A bounded queue that hands out batches. Not thread-safe: its owner holds a lock.

    Attributes:
        queued: waiting items.
        queued_tokens: their tokens.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.queued = 0
        self.queued_tokens = 0
        self._lanes: dict[tuple[str, Kind], Lane[ItemT]] = {}
        self._live: dict[int, ItemT] = {}
        self._deadlines: LazyHeap[ItemT] = LazyHeap(lambda item: item.state != "done")
        self._expired: list[ItemT] = []
        self._seq = count()

    @property
    def live(self) -> int:
        """Items that are queued or running: somebody waits for them."""
        return len(self._live)

    @property
    def running(self) -> int:
        """Items that were taken and have not ended."""
        return len(self._live) - self.queued

    def tokens_of(self, kind: Kind) -> int:
        """Return the waiting tokens of one kind."""
        return sum(lane.tokens for (_, lane_kind), lane in self._lanes.items() if lane_kind == kind)

    def items(self) -> list[ItemT]:
        """Return all live items, oldest submission first."""
        return list(self._live.values())

    def could_fit(self, items: Sequence[ItemT]) -> bool:
        """Tell whether an empty queue would admit this list. One item alone always fits, whatever its length."""
        tokens = sum(item.tokens for item in items)
        within = len(items) <= self.limits.max_queued and tokens <= self.limits.max_queued_tokens
        return within or len(items) == 1

    def fits(self, items: Sequence[ItemT]) -> bool:
        """Tell whether ``admit`` would take this list now."""
        if self.queued == 0:
            return self.could_fit(items)
        tokens = self.queued_tokens + sum(item.tokens for item in items)
        return self.queued + len(items) <= self.limits.max_queued and tokens <= self.limits.max_queued_tokens

    def admit(self, items: Sequence[ItemT], now: float) -> bool:
        """Queue all items, or none and return False."""
        if not self.fits(items):
            return False
        for item in items:
            item.seq = next(self._seq)
            item.enqueued_at = now
            self._live[item.seq] = item
            if item.deadline is not None:
                self._deadlines.push(item.deadline, item)
            self._enqueue(item)
        return True

    def oldest(self, kind: Kind, now: float, *, skip: Collection[str] = ()) -> ItemT | None:
        """Return the item around which the next batch of this kind is built. ``skip`` names models to pass over."""
        self._sweep(now)
        fronts = (
            lane.oldest() for (model, lane_kind), lane in self._lanes.items() if lane_kind == kind and model not in skip
        )
        return min((item for item in fronts if item), key=lambda item: (item.age_key, item.seq), default=None)

    def take(self, anchor: ItemT, room: Room, *, owner: int | None = None) -> list[ItemT]:
        """Start a batch around ``anchor`` (from ``oldest``): its kind and model, nearest lengths, within ``room``."""
        batch = self._lanes[anchor.model, anchor.kind].around(anchor, room)
        for item in batch:
            item.owner = owner  # before the state, so that recovery finds it wherever a dying thread stops
            self._dequeue(item)
            item.state = "running"
        return batch

    def requeue(self, items: Iterable[ItemT]) -> None:
        """Put running items back at their old place. They were admitted once, so the bounds do not apply again."""
        for item in items:
            if item.state == "running":
                item.owner = None
                self._enqueue(item)

    def finish(self, item: ItemT) -> bool:
        """End an item. Only the first call for an item returns True: the right to answer it."""
        if item.state in ("new", "done"):
            return False
        if item.state == "queued":
            self._dequeue(item)
        item.state = "done"
        del self._live[item.seq]
        return True

    def expire(self, now: float) -> list[ItemT]:
        """End every item, queued or running, whose deadline has passed, and return them."""
        self._sweep(now)
        expired, self._expired = self._expired, []
        return expired

    def next_deadline(self) -> float | None:
        """Return the earliest deadline of all live items."""
        first = self._deadlines.peek()
        return first[0] if first else None

    def _sweep(self, now: float) -> None:
        while (first := self._deadlines.peek()) is not None and first[0] <= now:
            self.finish(first[1])
            self._expired.append(first[1])

    def _enqueue(self, item: ItemT) -> None:
        item.state = "queued"
        key = (item.model, item.kind)
        if key not in self._lanes:
            self._lanes[key] = Lane()
        self._lanes[key].add(item)
        self.queued += 1
        self.queued_tokens += item.tokens

    def _dequeue(self, item: ItemT) -> None:
        key = (item.model, item.kind)
        self._lanes[key].remove(item)
        if self._lanes[key].size == 0:
            del self._lanes[key]
        self.queued -= 1
        self.queued_tokens -= item.tokens


class Turns:
    """Who goes next on one slot: verdicts first, but decoding gets a turn after ``max_score_streak`` of them."""

    def __init__(self, max_score_streak: int) -> None:
        self._max_streak = max_score_streak
        self._streak = 0

    def choose(self, *, score: bool, generate: bool) -> Kind | None:
        """Return the kind whose turn it is among those that have work, or ``None`` if none has."""
        if score and not (generate and self._streak >= self._max_streak):
            self._streak = self._streak + 1 if generate else 0
            return "score"
        self._streak = 0
        return "generate" if generate else None
