"""One lane of the queue: waiting items of one model and one kind, in order of age and of length. Pure."""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Generic, Literal, TypeAlias, TypeVar

Kind: TypeAlias = Literal["score", "generate"]
State: TypeAlias = Literal["new", "queued", "running", "done"]

PRIORITY_STEP_S = 1.0
"""One level of priority counts like this many seconds of waiting, so that no level can starve another."""

_COMPACT_FROM = 64


@dataclass(slots=True, kw_only=True, eq=False)
class Item:
    """What the scheduler knows about a request. ``enqueued_at``, ``seq``, ``state`` and ``owner`` are the scheduler's.

    Attributes:
        model: key of the model that must answer.
        kind: one forward pass, or a decode.
        tokens: length of the input; what it costs a batch is the longest length of the batch.
        deadline: absolute, on the scheduler's clock; ``None``: waits as long as it takes.
        priority: higher goes sooner, as if it had come ``priority * PRIORITY_STEP_S`` seconds earlier.
        solo: runs in a batch of its own, because a replica died while it ran.
        owner: index of the slot that runs it.
    """

    model: str
    kind: Kind
    tokens: int
    deadline: float | None = None
    priority: int = 0
    solo: bool = False
    enqueued_at: float = 0.0
    seq: int = -1
    state: State = "new"
    owner: int | None = None

    @property
    def age_key(self) -> float:
        """The time it counts as having come: smaller goes first."""
        return self.enqueued_at - self.priority * PRIORITY_STEP_S


ItemT = TypeVar("ItemT", bound=Item)


@dataclass(frozen=True, slots=True)
class Room:
    """What one batch may hold: rows, and tokens with padding (rows x longest). One item always fits."""

    rows: int
    tokens: int


class LazyHeap(Generic[ItemT]):
    """A heap whose entries may become void; void ones vanish when they surface, or when they are the majority."""

    def __init__(self, is_live: Callable[[ItemT], bool]) -> None:
        self._is_live = is_live
        self._entries: list[tuple[float, int, ItemT]] = []
        self._tie = count()
        self._compact_at = _COMPACT_FROM

    def push(self, key: float, item: ItemT) -> None:
        """Add an item."""
        heapq.heappush(self._entries, (key, next(self._tie), item))
        if len(self._entries) > self._compact_at:
            self._entries = [entry for entry in self._entries if self._is_live(entry[2])]
            heapq.heapify(self._entries)
            self._compact_at = max(_COMPACT_FROM, 2 * len(self._entries))

    def peek(self) -> tuple[float, ItemT] | None:
        """Return the live item with the smallest key, and the key."""
        while self._entries:
            key, _, item = self._entries[0]
            if self._is_live(item):
                return key, item
            heapq.heappop(self._entries)
        return None


class Lane(Generic[ItemT]):
    """Waiting items of one (model, kind)."""

    def __init__(self) -> None:
        self._by_age: LazyHeap[ItemT] = LazyHeap(lambda item: item.state == "queued")
        self._by_length: list[tuple[int, int, ItemT]] = []  # solo items are not in here: nobody may join them
        self.size = 0
        self.tokens = 0

    def add(self, item: ItemT) -> None:
        """Put an item in; its state is ``queued`` by now."""
        self._by_age.push(item.age_key, item)
        if not item.solo:
            insort(self._by_length, (item.tokens, item.seq, item))
        self.size += 1
        self.tokens += item.tokens

    def remove(self, item: ItemT) -> None:
        """Take an item out; its state is no longer ``queued`` right after."""
        if not item.solo:
            del self._by_length[self._place(item)]
        self.size -= 1
        self.tokens -= item.tokens

    def oldest(self) -> ItemT | None:
        """Return the item whose turn it is."""
        first = self._by_age.peek()
        return first[1] if first else None

    def around(self, anchor: ItemT, room: Room) -> list[ItemT]:
        """Return a batch: the anchor and its nearest neighbours in length, as many as there is room for."""
        if anchor.solo:
            return [anchor]
        low = self._place(anchor)  # the batch is by_length[low:high]; padding is least in a contiguous run
        high = low + 1
        longest = anchor.tokens
        while high - low < room.rows:
            rows = high - low + 1
            shorter = anchor.tokens - self._by_length[low - 1][0] if low > 0 else None
            longer = self._by_length[high][0] - anchor.tokens if high < len(self._by_length) else None
            shorter_fits = shorter is not None and rows * longest <= room.tokens
            longer_fits = longer is not None and rows * (anchor.tokens + longer) <= room.tokens
            if shorter is not None and shorter_fits and not (longer is not None and longer_fits and longer < shorter):
                low -= 1
            elif longer is not None and longer_fits:
                longest = anchor.tokens + longer
                high += 1
            else:
                break
        return [item for _, _, item in self._by_length[low:high]]

    def _place(self, item: ItemT) -> int:
        return bisect_left(self._by_length, (item.tokens, item.seq), key=lambda entry: (entry[0], entry[1]))
