"""What runs next: a pure state machine. No threads, no clock of its own, no futures.

An item is ``new``, then ``queued``, then ``running``, then ``done``; ``requeue`` takes it back from running to queued.
One that equals another in flight is ``joined`` instead and shares its run. Whoever makes an item ``done`` (``finish``,
``settle`` or ``expire``) is the only one who may answer it: so each leaves exactly once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import count
from typing import Generic

from guardrail_plugin.pool.admission import Admission, Fit, Limits, Load
from guardrail_plugin.pool.forecast import Demand, share_of_queue
from guardrail_plugin.pool.lane import Item, ItemT, Kind, Lane, LazyHeap, Room, gather
from guardrail_plugin.pool.runs import Runs
from guardrail_plugin.pool.shares import Shares


class Scheduler(Generic[ItemT]):
    """A bounded queue that hands out batches. Not thread-safe: its owner holds a lock.

    Attributes:
        queued: waiting items that lead a run.
        queued_tokens: their tokens.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.queued = 0
        self.queued_tokens = 0
        self._lanes: dict[Kind, dict[str, dict[str, Lane[ItemT]]]] = {"score": {}, "generate": {}}  # model, tenant
        self._shares: dict[Kind, Shares] = {"score": Shares(), "generate": Shares()}
        self._admission = Admission(limits)
        self._demand = Demand()
        self._runs: Runs[ItemT] = Runs()
        self._scoring: Counter[str] = Counter()  # tokens that run, by model
        self._live: dict[int, ItemT] = {}
        self._deadlines: LazyHeap[ItemT] = LazyHeap(lambda item: item.state != "done")
        self._expired: list[ItemT] = []
        self._seq = count()

    @property
    def live(self) -> int:
        """Items that have not ended: somebody waits for them."""
        return len(self._live)

    @property
    def joined(self) -> int:
        """Items that wait for the run of an equal one."""
        return self._runs.joined

    @property
    def coalesced(self) -> int:
        """Items that ever joined the run of an equal one."""
        return self._runs.coalesced

    @property
    def running(self) -> int:
        """Items that were taken and have not ended."""
        return len(self._live) - self.queued - self.joined

    def tenants(self, now: float) -> int:
        """Return how many tenants have asked for something lately."""
        return self._admission.tenants(now)

    def items(self) -> list[ItemT]:
        """Return all live items, oldest submission first."""
        return list(self._live.values())

    def leader(self, item: ItemT) -> ItemT | None:
        """Return the item that stands for this one's run, itself or an equal one; ``None`` if the run is over."""
        return self._runs.leader(item)

    def work_ahead(self, items: Sequence[ItemT], now: float, *, token_s: Callable[[str], float], slots: int) -> float:
        """Return how much scoring runs until the last of a new list, all of one tenant, is answered.

        Args:
            items: the list; 0 is returned if nothing waits or runs before it, or if it joins runs in flight.
            now: on the clock of ``admit``.
            token_s: seconds per token of a model on one slot. The answer is in seconds of one slot, too.
            slots: how many work.
        """
        news = self._news(items)
        running = sum(tokens * token_s(model) for model, tokens in self._scoring.items())
        if news.rows == 0 or not (self._lanes["score"] or running):
            return 0.0
        own = news.tokens * token_s(items[0].model)
        if items[0].priority > 0:
            return running + own  # it passes the others
        tenant, waiting = items[0].tenant, self.work_waiting(token_s)
        demand: dict[str, float] = {}
        for (of, model), rate in self._demand.rates(now).items():
            if of != tenant:
                demand[of] = demand.get(of, 0.0) + rate * token_s(model)
        return running + share_of_queue(own + waiting.pop(tenant, 0.0), waiting, demand, slots=slots)

    def work_waiting(self, token_s: Callable[[str], float]) -> dict[str, float]:
        """Return the scoring that waits, by tenant, in seconds of one slot."""
        waiting: dict[str, float] = {}
        for model, lanes in self._lanes["score"].items():
            each_s = token_s(model)
            for tenant, lane in lanes.items():
                waiting[tenant] = waiting.get(tenant, 0.0) + lane.tokens * each_s
        return waiting

    def patience(self, item: ItemT) -> float | None:
        """Return the deadline of whoever waits longest for the run that this item leads; ``None``: there is none."""
        deadlines = [member.deadline for member in self._runs.members(item)]
        known = [deadline for deadline in deadlines if deadline is not None]
        return max(known) if len(known) == len(deadlines) else None

    def waits(self, kind: Kind) -> bool:
        """Tell whether anything of this kind waits."""
        return bool(self._lanes[kind])

    def could_fit(self, items: Sequence[ItemT]) -> bool:
        """Tell whether an empty queue would admit this list. One item alone always fits, whatever its length."""
        return len(items) == 1 or self._admission.within(Load(len(items), sum(item.tokens for item in items)))

    def fit(self, items: Sequence[ItemT], now: float) -> Fit:
        """Tell whether ``admit`` would take this list, all of one tenant, now."""
        news = self._news(items)
        if self.joined + len(items) - news.rows > self.limits.max_queued:
            return "full"  # who joins a run takes no room in the queue, but is remembered
        if news.rows == 0 or (news.rows == 1 and self.queued == 0):
            return "fits"
        waiting = Load(self.queued, self.queued_tokens)
        return self._admission.fit(items[0].tenant, news, waiting=waiting, own=self._held(items[0].tenant), now=now)

    def admit(self, items: Sequence[ItemT], now: float) -> Fit:
        """Queue all items, or none, and tell which. An item that equals one in flight joins its run."""
        fit = self.fit(items, now)
        if items:
            self._admission.note(items[0].tenant, now)
        if fit != "fits":
            return fit
        if items and items[0].kind == "score":
            self._demand.note(items[0].tenant, items[0].model, self._news(items).tokens, now)
        for item in items:
            item.seq = next(self._seq)
            item.enqueued_at = now
            self._live[item.seq] = item
            if item.deadline is not None:
                self._deadlines.push(item.deadline, item)
            self._begin(item)
        return fit

    def oldest(self, kind: Kind, now: float, *, skip: Collection[str] = ()) -> ItemT | None:
        """Return the item around which the next batch of this kind is built. ``skip`` names models to pass over.

        It is the oldest of the tenant that has had least.
        """
        self._sweep(now)
        fronts: dict[str, ItemT] = {}
        for model, lanes in self._lanes[kind].items():
            if model in skip:
                continue
            for tenant, lane in lanes.items():
                front = lane.oldest()
                if front and (tenant not in fronts or _age(front) < _age(fronts[tenant])):
                    fronts[tenant] = front
        if not fronts:
            return None
        shares = self._shares[kind]
        shares.waiting(fronts)
        return min(fronts.values(), key=lambda item: (shares.turn(item), _age(item)))

    def take(self, anchor: ItemT, room: Room, *, now: float, owner: int | None = None) -> list[ItemT]:
        """Start a batch around ``anchor`` (from ``oldest``): its kind and model, nearest lengths, within ``room``."""
        shares = self._shares[anchor.kind]
        batch = gather(self._lanes[anchor.kind][anchor.model], anchor, room, had=shares.had, now=now)
        for item in batch:
            item.owner = owner  # before the state, so that recovery finds it wherever a dying thread stops
            self._dequeue(item)
            item.state = "running"
            shares.charge(item.tenant, item.cost)
            self._runs_now(item, item.tokens)
        return batch

    def requeue(self, items: Iterable[ItemT]) -> None:
        """Put running items back at their old place. They were admitted once, so the bounds do not apply again."""
        for item in items:
            if item.state == "running":
                item.owner = None
                self._runs_now(item, -item.tokens)
                self._shares[item.kind].charge(item.tenant, -item.cost)
                self._enqueue(item)

    def finish(self, item: ItemT) -> bool:
        """End one item; others that wait for its run still do. Only the first call for an item returns True."""
        if item.state in ("new", "done"):
            return False
        heir = self._runs.leave(item)
        running = item.state == "running"
        self._end(item)
        if heir is not None:
            heir.attempts, heir.solo, heir.owner = item.attempts, item.solo, item.owner
            if running:
                heir.state = "running"
                self._runs_now(heir, heir.tokens)
            else:
                self._enqueue(heir)
        return True

    def settle(self, item: ItemT) -> list[ItemT]:
        """End the run that an item belongs to; return everybody who has to be told how it ended."""
        leader = self._runs.leader(item)
        if leader is None:
            return []
        told = self._runs.end(leader)
        for one in told:
            self._end(one)
        return told

    def expire(self, now: float) -> list[ItemT]:
        """End every item, queued or running, whose deadline has passed, and return them."""
        self._sweep(now)
        expired, self._expired = self._expired, []
        return expired

    def next_deadline(self) -> float | None:
        """Return the earliest deadline of all live items."""
        first = self._deadlines.peek()
        return first[0] if first else None

    def _begin(self, item: ItemT) -> None:
        leader = self._runs.under(item.key)
        if leader is None:
            self._runs.begin(item)
            self._enqueue(item)
        elif leader.state == "queued" and item.age_key < leader.age_key:  # it is more urgent: take it all along
            self._dequeue(leader)
            leader.state = "joined"
            self._runs.overtake(item, leader)
            item.attempts, item.solo = leader.attempts, leader.solo
            self._enqueue(item)
        else:
            item.state = "joined"
            self._runs.join(item, leader)

    def _end(self, item: ItemT) -> None:
        if item.state == "queued":
            self._dequeue(item)
        elif item.state == "running":
            self._runs_now(item, -item.tokens)
        item.state = "done"
        del self._live[item.seq]

    def _runs_now(self, item: ItemT, tokens: int) -> None:
        if item.kind == "score":
            self._scoring[item.model] += tokens
            if not self._scoring[item.model]:
                del self._scoring[item.model]

    def _news(self, items: Sequence[ItemT]) -> Load:
        """Return what a list would add to the queue: what does not join a run."""
        runs = {item.key: item for item in items if item.key is not None}
        news = [item for item in items if item.key is None]
        news += [item for key, item in runs.items() if self._runs.under(key) is None]
        return Load(len(news), sum(item.tokens for item in news))

    def _held(self, tenant: str) -> Load:
        own = [lanes[tenant] for kind in self._lanes.values() for lanes in kind.values() if tenant in lanes]
        return Load(sum(lane.size for lane in own), sum(lane.tokens for lane in own))

    def _sweep(self, now: float) -> None:
        while (first := self._deadlines.peek()) is not None and first[0] <= now:
            self.finish(first[1])
            self._expired.append(first[1])

    def _enqueue(self, item: ItemT) -> None:
        item.state = "queued"
        self._lanes[item.kind].setdefault(item.model, {}).setdefault(item.tenant, Lane()).add(item)
        self.queued += 1
        self.queued_tokens += item.tokens

    def _dequeue(self, item: ItemT) -> None:
        lanes = self._lanes[item.kind][item.model]
        lanes[item.tenant].remove(item)
        if lanes[item.tenant].size == 0:
            del lanes[item.tenant]
        if not lanes:
            del self._lanes[item.kind][item.model]
        self.queued -= 1
        self.queued_tokens -= item.tokens


def _age(item: Item) -> tuple[float, int]:
    return item.age_key, item.seq


class Turns:
    """Who goes next on one slot: verdicts first, but decoding gets a turn after ``max_score_streak`` of them."""

    def __init__(self, max_score_streak: int) -> None:
        self.max_streak = max_score_streak
        self._streak = 0

    def choose(self, *, score: bool, generate: bool) -> Kind | None:
        """Return the kind whose turn it is among those that have work, or ``None`` if none has."""
        if score and not (generate and self._streak >= self.max_streak):
            self._streak = self._streak + 1 if generate else 0
            return "score"
        self._streak = 0
        return "generate" if generate else None
