"""Equal requests that wait for one run: who leads, who has joined, who inherits. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic

from guardrail_plugin.pool.lane import ItemT


class Runs(Generic[ItemT]):
    """One run per distinct piece of work. Its leader is what the queue and the slots see; the others wait with it.

    Whoever leaves leaves alone. When a leader leaves, the first who joined inherits the run wherever it stands, so that
    neither a cancelled caller nor one with a short deadline takes the answer from the others.

    Attributes:
        joined: items that wait for another's run.
        coalesced: items that ever joined one.
    """

    def __init__(self) -> None:
        self.joined = 0
        self.coalesced = 0
        self._leaders: dict[int, ItemT] = {}
        self._followers: dict[int, dict[int, ItemT]] = {}  # by run, then by seq: first come, first to inherit
        self._by_key: dict[Hashable, int] = {}

    def under(self, key: Hashable) -> ItemT | None:
        """Return the leader of the run for this key, if one is in flight."""
        run = self._by_key.get(key) if key is not None else None
        return None if run is None else self._leaders[run]

    def leader(self, item: ItemT) -> ItemT | None:
        """Return who leads the run that this item belongs or belonged to; ``None`` if it is over."""
        return self._leaders.get(item.run)

    def members(self, item: ItemT) -> list[ItemT]:
        """Return everybody who waits for the run that this item leads."""
        return [item, *self._followers.get(item.run, {}).values()]

    def begin(self, item: ItemT) -> None:
        """Begin a run."""
        item.run = item.seq
        self._leaders[item.run] = item
        if item.key is not None:
            self._by_key[item.key] = item.run

    def join(self, item: ItemT, leader: ItemT) -> None:
        """Wait with others."""
        self._follow(item, leader.run)
        self.coalesced += 1

    def overtake(self, item: ItemT, leader: ItemT) -> None:
        """Join as the new leader; the old one waits with the others."""
        item.run = leader.run
        self._leaders[item.run] = item
        self._follow(leader, item.run)
        self.coalesced += 1

    def leave(self, item: ItemT) -> ItemT | None:
        """Take an item out; return who inherits its run, if it led one for others."""
        followers = self._followers.get(item.run, {})
        if self._leaders[item.run] is not item:
            self._unfollow(item)
            return None
        if not followers:
            self._forget(item)
            return None
        heir = next(iter(followers.values()))
        self._unfollow(heir)
        self._leaders[item.run] = heir
        return heir

    def end(self, leader: ItemT) -> list[ItemT]:
        """End a run; return everybody who waited for it, the leader first."""
        followers = list(self._followers.pop(leader.run, {}).values())
        self.joined -= len(followers)
        self._forget(leader)
        return [leader, *followers]

    def _follow(self, item: ItemT, run: int) -> None:
        item.run = run
        self._followers.setdefault(run, {})[item.seq] = item
        self.joined += 1

    def _unfollow(self, item: ItemT) -> None:
        followers = self._followers[item.run]
        del followers[item.seq]
        self.joined -= 1
        if not followers:
            del self._followers[item.run]

    def _forget(self, leader: ItemT) -> None:
        del self._leaders[leader.run]
        if leader.key is not None:
            del self._by_key[leader.key]
