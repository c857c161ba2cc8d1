"""Laws of sharing: equal requests share one run, tenants share the pool. No threads and no real time."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from guardrail_plugin.pool.admission import PRESENT_S, Limits
from guardrail_plugin.pool.lane import Item, Room
from guardrail_plugin.pool.scheduler import Scheduler
from guardrail_plugin.pool.shares import MAX_TENANTS, PRIORITY_STEP_TOKENS, Shares

LIMITS = Limits(max_queued=10, max_queued_tokens=200, max_batch=4, max_batch_tokens=60)
tenants = st.sampled_from(["a", "b", "c"])


def item(
    tenant: str = "", *, tokens: int = 1, key: object = None, priority: int = 0, deadline: float | None = None
) -> Item:
    whole = None if key is None else (tenant, tokens, key)
    return Item(model="m", kind="score", tokens=tokens, tenant=tenant, key=whole, priority=priority, deadline=deadline)


class SharingMachine(RuleBasedStateMachine):
    """Any interleaving of submit, run, cancel, expire, death and requeue, with equal requests and three tenants."""

    taken = Bundle("taken")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.scheduler: Scheduler[Item] = Scheduler(LIMITS)
        self.submitted: list[Item] = []
        self.told: list[Item] = []
        self.requeued = 0

    @rule(
        tenant=tenants,
        shapes=st.lists(st.tuples(st.integers(1, 40), st.none() | st.integers(0, 2)), min_size=1, max_size=5),
        priority=st.integers(-1, 2),
        within=st.none() | st.integers(1, 4),
    )
    def submit(self, tenant: str, shapes: list[tuple[int, int | None]], priority: int, within: int | None) -> None:
        deadline = None if within is None else self.now + within
        news = [item(tenant, tokens=n, key=key, priority=priority, deadline=deadline) for n, key in shapes]
        alone = self.scheduler.queued == 0 and len(news) == 1
        before = (self.scheduler.queued, self.scheduler.queued_tokens, self.scheduler.joined)
        if self.scheduler.admit(news, self.now) == "fits":
            self.submitted += news
            assert self.scheduler.joined <= LIMITS.max_queued
            if not self.requeued and not alone:
                assert self.scheduler.queued <= LIMITS.max_queued
                assert self.scheduler.queued_tokens <= LIMITS.max_queued_tokens
        else:
            assert (self.scheduler.queued, self.scheduler.queued_tokens, self.scheduler.joined) == before
            assert all(one.state == "new" for one in news)

    @rule(target=taken)
    def take(self) -> object:
        anchor = self.scheduler.oldest("score", self.now)
        waiting = [one for one in self.submitted if one.state == "queued"]
        if anchor is None:
            assert not waiting, "work is never hidden"
            return multiple()
        own = [one for one in waiting if one.tenant == anchor.tenant]
        assert anchor is min(own, key=lambda one: (one.age_key, one.seq)), "the oldest of its tenant"
        batch = self.scheduler.take(anchor, Room(4, 60), now=self.now, owner=0)
        assert anchor in batch
        keys = [one.key for one in batch if one.key is not None]
        assert len(set(keys)) == len(keys), "equal requests run once"
        return multiple(*batch)

    @rule(first=consumes(taken))
    def answer(self, first: Item) -> None:
        leader = self.scheduler.leader(first)
        told = self.scheduler.settle(first)
        assert all(one.key == first.key for one in told if len(told) > 1)
        assert (leader is None) == (not told)
        self.told += told
        assert self.scheduler.settle(first) == [], "nothing is answered twice"

    @rule(first=consumes(taken))
    def die(self, first: Item) -> None:
        leader = self.scheduler.leader(first)
        if leader is not None:
            leader.attempts += 1
            leader.solo = True
            self.requeued += leader.state == "running"
            self.scheduler.requeue([leader])

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        live = self.scheduler.items()
        if live:
            one = data.draw(st.sampled_from(live))
            others = [other for other in live if other.run == one.run and other is not one]
            assert self.scheduler.finish(one)
            assert not self.scheduler.finish(one)
            self.told.append(one)
            assert all(other.state in ("queued", "joined", "running") for other in others), "it leaves alone"
            if others:
                assert sum(other.state in ("queued", "running") for other in others) == 1, (
                    "one of them inherits the run"
                )
                self.requeued += 1  # an heir may come back to the queue beyond its bounds

    @rule(seconds=st.integers(1, 3))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        self.told += self.scheduler.expire(self.now)
        assert not [one for one in self.scheduler.items() if one.deadline is not None and one.deadline <= self.now]

    @invariant()
    def books_balance(self) -> None:
        by_state = {
            state: [one for one in self.submitted if one.state == state] for state in ("queued", "joined", "running")
        }
        assert self.scheduler.queued == len(by_state["queued"])
        assert self.scheduler.joined == len(by_state["joined"])
        assert self.scheduler.running == len(by_state["running"])
        assert self.scheduler.queued_tokens == sum(one.tokens for one in by_state["queued"])
        leaders = by_state["queued"] + by_state["running"]
        assert len({one.run for one in leaders}) == len(leaders), "one leader per run"
        assert {one.run for one in by_state["joined"]} <= {one.run for one in leaders}, "nobody waits for nothing"
        assert len({one.seq for one in self.told}) == len(self.told), "nobody is told twice"
        assert len(self.told) + self.scheduler.live <= len(self.submitted)

    def teardown(self) -> None:
        """Whatever happened before, everybody can be told."""
        for one in self.scheduler.items():
            self.told += self.scheduler.settle(one)
        self.told += self.scheduler.expire(self.now)
        assert (self.scheduler.live, self.scheduler.queued, self.scheduler.joined) == (0, 0, 0)
        assert sorted(one.seq for one in self.told) == sorted(one.seq for one in self.submitted), "nothing is lost"


TestSharingMachine = SharingMachine.TestCase
TestSharingMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@settings(max_examples=40, deadline=None)
@given(
    light=st.lists(st.integers(1, 30), min_size=20, max_size=40),
    heavy=st.lists(st.integers(1, 30), min_size=150, max_size=300),
    lead=st.integers(0, 3),
    rows=st.integers(1, 8),
)
def test_two_tenants_with_work_get_equal_tokens_however_much_one_has_sent(
    light: list[int], heavy: list[int], lead: int, rows: int
) -> None:
    scheduler: Scheduler[Item] = Scheduler(Limits(max_queued=1000))
    for tokens in heavy:  # it was there first, and claims to be urgent
        assert scheduler.admit([item("heavy", tokens=tokens, priority=lead)], 0.0) == "fits"
    for tokens in light:
        assert scheduler.admit([item("light", tokens=tokens)], 1.0) == "fits"
    served = {"heavy": 0, "light": 0}
    head_start = lead * PRIORITY_STEP_TOKENS
    while any(one.tenant == "light" for one in scheduler.items()) and any(
        one.tenant == "heavy" for one in scheduler.items()
    ):
        anchor = scheduler.oldest("score", 2.0)
        assert anchor is not None
        for one in scheduler.take(anchor, Room(rows, 120), now=0.0):
            served[one.tenant] += one.tokens
            scheduler.settle(one)
        assert served["heavy"] - served["light"] <= head_start + 120 + 30, "at most the head start and one batch ahead"
        assert served["light"] - served["heavy"] <= 120 + 30


def test_a_newcomer_is_next_however_long_the_other_has_waited() -> None:
    scheduler: Scheduler[Item] = Scheduler(Limits())
    assert scheduler.admit([item("crowd") for _ in range(100)], 0.0) == "fits"
    for _ in range(20):
        anchor = scheduler.oldest("score", 1.0)
        assert anchor is not None
        scheduler.take(anchor, Room(4, 100), now=0.0)
    new = item("new")
    assert scheduler.admit([new], 2.0) == "fits"
    assert scheduler.oldest("score", 2.0) is new


def test_nobody_saves_up_while_away() -> None:
    shares = Shares()
    shares.charge("busy", 1_000)
    shares.waiting(["busy"])
    assert shares.had("away") == 1_000


def test_remembered_tenants_are_bounded() -> None:
    shares = Shares()
    scheduler: Scheduler[Item] = Scheduler(Limits(max_queued=4))
    for number in range(3 * MAX_TENANTS):
        shares.charge(f"t{number}", number)
        scheduler.admit([item(f"t{number}")], number / 1000)
    assert len(shares) <= MAX_TENANTS
    assert scheduler.tenants(0.0) <= MAX_TENANTS


def test_who_floods_the_queue_is_turned_away_before_the_others_are() -> None:
    scheduler: Scheduler[Item] = Scheduler(Limits(max_queued=100))
    assert scheduler.admit([item("small")], 0.0) == "fits"
    assert (
        sum((scheduler.admit([item("flood")], 0.0) == "fits") for _ in range(200)) == 74
    )  # three quarters, with the other's one
    assert scheduler.fit([item("flood")], 0.0) == "over share"
    assert sum((scheduler.admit([item("small")], 0.0) == "fits") for _ in range(200)) == 25
    assert scheduler.fit([item("flood")], 0.0) == "full"
    assert scheduler.tenants(2 * PRESENT_S) == 0


def test_a_list_larger_than_an_equal_part_waits_for_room_and_not_for_its_own_share() -> None:
    scheduler: Scheduler[Item] = Scheduler(Limits(max_queued=100))
    for _ in range(31):
        assert scheduler.admit([item("small")], 0.0) == "fits"
    assert scheduler.fit([item("flood") for _ in range(50)], 0.0) == "fits"
    assert scheduler.fit([item("flood") for _ in range(51)], 0.0) == "full"
    assert scheduler.admit([item("flood")], 0.0) == "fits"
    assert scheduler.fit([item("small") for _ in range(50)], 0.0) == "over share", "for it is its own that must go"


def test_a_tenant_alone_may_fill_the_queue() -> None:
    scheduler: Scheduler[Item] = Scheduler(Limits(max_queued=100))
    assert sum((scheduler.admit([item("only")], 0.0) == "fits") for _ in range(200)) == 100


def test_who_joins_a_run_takes_no_room_but_is_bounded() -> None:
    scheduler: Scheduler[Item] = Scheduler(Limits(max_queued=10))
    assert sum((scheduler.admit([item(key="same")], 0.0) == "fits") for _ in range(50)) == 11
    assert (scheduler.queued, scheduler.joined, scheduler.queued_tokens) == (1, 10, 1)


def test_the_more_urgent_of_two_equals_takes_the_run_along() -> None:
    scheduler: Scheduler[Item] = Scheduler(Limits())
    calm, other, urgent = item(key="same"), item(key="other"), item(key="same", priority=5)
    assert scheduler.admit([calm, other], 0.0) == "fits"
    assert scheduler.admit([urgent], 1.0) == "fits"
    assert scheduler.oldest("score", 1.0) is urgent
    assert scheduler.take(urgent, Room(1, 10), now=1.0) == [urgent]
    assert scheduler.settle(urgent) == [urgent, calm]


def test_equal_requests_of_different_tenants_run_apart() -> None:
    scheduler: Scheduler[Item] = Scheduler(Limits())
    assert scheduler.admit([item("a", key="same")], 0.0) == "fits"
    assert scheduler.admit([item("b", key="same")], 0.0) == "fits"
    assert (scheduler.queued, scheduler.joined) == (2, 0)


def test_the_tokens_ahead_of_a_newcomer_are_its_fair_share_of_the_others() -> None:
    scheduler: Scheduler[Item] = Scheduler(Limits())

    def ahead(newcomer: Item) -> float:
        return scheduler.work_ahead([newcomer], 0.0, token_s=lambda _: 1.0, slots=10**9)

    assert ahead(item("new", tokens=10)) == 0, "nothing waits"
    assert scheduler.admit([item("crowd", tokens=100) for _ in range(20)], 0.0) == "fits"
    assert ahead(item("new", tokens=10)) == 20
    assert ahead(item("crowd", tokens=10)) == 2010
    assert scheduler.admit([item("crowd", tokens=7, key="same")], 0.0) == "fits"
    assert ahead(item("crowd", tokens=7, key="same")) == 0, "it joins a run"
