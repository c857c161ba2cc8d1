"""Lanes of the queue: waiting items of one model, kind and tenant, in order of age and of length. Pure."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, Literal, TypeAlias, TypeVar

Kind: TypeAlias = Literal["score", "generate"]
State: TypeAlias = Literal["new", "queued", "joined", "running", "done"]

PRIORITY_STEP_S = 1.0
"""One level of priority counts like this many seconds of waiting, so that no level can starve another."""

_COMPACT_FROM = 64


@dataclass(slots=True, kw_only=True, eq=False)
class Item:
    """What the scheduler knows about a request. From ``enqueued_at`` on the fields are the scheduler's.

    Attributes:
        model: key of the model that must answer.
        kind: one forward pass, or a decode.
        tokens: length of the input; what it costs a batch is the longest length of the batch.
        deadline: absolute, on the scheduler's clock; ``None``: waits as long as it takes.
        priority: higher goes sooner, as if it had come ``priority * PRIORITY_STEP_S`` seconds earlier.
        tenant: on whose account it runs; tenants get equal shares.
        key: items with equal keys are answered by one run; ``None``: by a run of its own.
        reserve: tokens that it may make, charged to the tenant with the input's.
        solo: runs in a batch of its own, because a replica died while it ran.
        attempts: replicas that died while they ran it.
        run: which run answers it: the ``seq`` of the item that began it.
        owner: index of the slot that runs it.
    """

    model: str
    kind: Kind
    tokens: int
    deadline: float | None = None
    priority: int = 0
    tenant: str = field(default="", repr=False)
    key: Hashable = field(default=None, repr=False)
    reserve: int = 0
    solo: bool = False
    attempts: int = 0
    enqueued_at: float = 0.0
    seq: int = -1
    run: int = -1
    state: State = "new"
    owner: int | None = None

    @property
    def age_key(self) -> float:
        """The time it counts as having come: smaller goes first."""
        return self.enqueued_at - self.priority * PRIORITY_STEP_S

    @property
    def cost(self) -> int:
        """What its tenant is charged, in tokens."""
        return self.tokens + self.reserve


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
        self._entries: list[tuple[float, int, int, ItemT]] = []
        self._tie = count()
        self._compact_at = _COMPACT_FROM

    def push(self, key: float, item: ItemT) -> None:
        """Add an item. Of equal keys the one that was submitted first goes first, also when it comes back."""
        heapq.heappush(self._entries, (key, item.seq, next(self._tie), item))
        if len(self._entries) > self._compact_at:
            self._entries = [entry for entry in self._entries if self._is_live(entry[-1])]
            heapq.heapify(self._entries)
            self._compact_at = max(_COMPACT_FROM, 2 * len(self._entries))

    def peek(self) -> tuple[float, ItemT] | None:
        """Return the live item with the smallest key, and the key."""
        while self._entries:
            key, _, _, item = self._entries[0]
            if self._is_live(item):
                return key, item
            heapq.heappop(self._entries)
        return None


class Lane(Generic[ItemT]):
    """Waiting items of one model, kind and tenant."""

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

    def near(self, anchor: ItemT, *, now: float) -> Nearest[ItemT]:
        """Look outwards from an item's length. The item itself is left out.

        So are those that came much later than the lane's oldest: by more than the time that this one has left. So who
        has much time lets others of a batch's length go first, and who has little does not.
        """
        at = self._place(anchor)
        is_here = at < len(self._by_length) and self._by_length[at][2] is anchor
        oldest, until = self.oldest(), math.inf
        if oldest is not None and oldest.deadline is not None:
            until = oldest.age_key + max(0.0, oldest.deadline - now)
        return Nearest(self._by_length, low=at, high=at + is_here, length=anchor.tokens, until=until)

    def _place(self, item: ItemT) -> int:
        return bisect_left(self._by_length, (item.tokens, item.seq), key=lambda entry: (entry[0], entry[1]))


class Nearest(Generic[ItemT]):
    """One lane's items from the nearest in length outwards."""

    def __init__(
        self, entries: list[tuple[int, int, ItemT]], *, low: int, high: int, length: int, until: float
    ) -> None:
        self._entries = entries
        self._low = low  # entries[low:high] have been handed out or passed over, or are the anchor
        self._high = high
        self._length = length
        self._until = until

    def next(self, fits: Callable[[int], bool]) -> ItemT | None:
        """Return the next item for whose length there is room; the shorter of two that are equally near."""
        while self._low > 0 and self._entries[self._low - 1][2].age_key > self._until:
            self._low -= 1
        while self._high < len(self._entries) and self._entries[self._high][2].age_key > self._until:
            self._high += 1
        shorter = self._entries[self._low - 1] if self._low > 0 else None
        longer = self._entries[self._high] if self._high < len(self._entries) else None
        if shorter is not None and not fits(shorter[0]):
            shorter = None
        if longer is not None and not fits(longer[0]):
            longer = None
        if shorter is not None and (longer is None or self._length - shorter[0] <= longer[0] - self._length):
            self._low -= 1
            return shorter[2]
        if longer is not None:
            self._high += 1
            return longer[2]
        return None


def gather(
    lanes: Mapping[str, Lane[ItemT]],
    anchor: ItemT,
    room: Room,
    *,
    had: Callable[[str], float],
    now: float,
) -> list[ItemT]:
    """Return a batch: the anchor and neighbours in length, as many as there is room for, shortest first.

    Args:
        lanes: by tenant; all of one model and kind.
        had: what a tenant has been served so far. Each place goes to the tenant that has had least, this batch counted.
        now: on the clock of the deadlines.
    """
    if anchor.solo:
        return [anchor]
    batch = [anchor]
    longest = anchor.tokens
    line = [(had(tenant) + anchor.cost * (tenant == anchor.tenant), tenant) for tenant in lanes]
    heapq.heapify(line)
    near = {tenant: lane.near(anchor, now=now) for tenant, lane in lanes.items()}

    def fits(length: int) -> bool:
        return (len(batch) + 1) * max(longest, length) <= room.tokens

    while line and len(batch) < room.rows:
        so_far, tenant = line[0]
        item = near[tenant].next(fits)
        if item is None:
            heapq.heappop(line)  # room only gets less
            continue
        batch.append(item)
        longest = max(longest, item.tokens)
        heapq.heapreplace(line, (so_far + item.cost, tenant))
    return sorted(batch, key=lambda item: (item.tokens, item.seq))
