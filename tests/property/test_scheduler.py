"""Laws of the scheduler, whatever comes in whatever order. No threads and no real time."""

from __future__ import annotations

from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from guardrail_plugin.pool.admission import Limits
from guardrail_plugin.pool.bridge import split
from guardrail_plugin.pool.jobs import ScoreJob
from guardrail_plugin.pool.lane import PRIORITY_STEP_S, Item, Lane, Room, gather
from guardrail_plugin.pool.protocol import ScoreRequest
from guardrail_plugin.pool.scheduler import Scheduler, Turns

LIMITS = Limits(max_queued=12, max_queued_tokens=200, max_batch=4, max_batch_tokens=60)
Kind = Literal["score", "generate"]

kinds: st.SearchStrategy[Kind] = st.sampled_from(["score", "generate"])
models = st.sampled_from(["a", "b"])
lengths = st.integers(1, 90)


class SchedulerMachine(RuleBasedStateMachine):
    """Any interleaving of submit, take, finish, requeue, cancel, and time passing."""

    taken = Bundle("taken")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.scheduler: Scheduler[Item] = Scheduler(LIMITS)
        self.submitted: list[Item] = []
        self.left: list[Item] = []
        self.started: set[int] = set()
        self.requeued = 0

    @rule(
        shapes=st.lists(st.tuples(models, kinds, lengths, st.none() | st.integers(1, 5)), min_size=1, max_size=14),
        priority=st.integers(-2, 2),
    )
    def submit(self, shapes: list[tuple[str, Kind, int, int | None]], priority: int) -> None:
        items = [
            Item(
                model=model,
                kind=kind,
                tokens=tokens,
                priority=priority,
                deadline=None if within is None else self.now + within,
            )
            for model, kind, tokens, within in shapes
        ]
        before = (self.scheduler.queued, self.scheduler.queued_tokens)
        if self.scheduler.admit(items, self.now) == "fits":
            self.submitted += items
            # Requeued work was admitted before and is not counted against the bounds a second time.
            if self.requeued == 0 and not (len(items) == 1 and before[0] == 0):
                assert self.scheduler.queued <= LIMITS.max_queued
                assert self.scheduler.queued_tokens <= LIMITS.max_queued_tokens
        else:
            assert (self.scheduler.queued, self.scheduler.queued_tokens) == before, "all or nothing"
            assert all(item.state == "new" for item in items)

    @rule(target=taken, kind=kinds, rows=st.integers(1, 4), tokens=st.integers(1, 60), skip=st.sets(models, max_size=1))
    def take(self, kind: Kind, rows: int, tokens: int, skip: set[str]) -> object:
        waiting = [
            item
            for item in self.submitted
            if item.state == "queued"
            and item.kind == kind
            and item.model not in skip
            and (item.deadline is None or item.deadline > self.now)
        ]
        anchor = self.scheduler.oldest(kind, self.now, skip=skip)
        if anchor is None:
            assert not waiting, "work is never hidden"
            return multiple()
        assert anchor is min(waiting, key=lambda item: (item.enqueued_at - item.priority * PRIORITY_STEP_S, item.seq))
        batch = self.scheduler.take(anchor, Room(rows, tokens), now=self.now, owner=0)
        assert anchor in batch, "the oldest is in its batch"
        assert {(item.model, item.kind) for item in batch} == {(anchor.model, kind)}
        assert len(batch) == 1 or len(batch) <= rows
        assert len(batch) == 1 or len(batch) * max(item.tokens for item in batch) <= tokens
        assert len(batch) == 1 or not any(item.solo for item in batch), "a suspect runs alone"
        assert all(item.deadline is None or item.deadline > self.now for item in batch), "expired never run"
        self.started.update(item.seq for item in batch)
        return multiple(*batch)

    @rule(item=consumes(taken))
    def finish(self, item: Item) -> None:
        if self.scheduler.finish(item):
            self.left.append(item)
        assert not self.scheduler.finish(item), "nothing ends twice"

    @rule(item=consumes(taken), solo=st.booleans())
    def requeue(self, item: Item, solo: bool) -> None:
        if item.state == "running":
            item.solo |= solo
            self.requeued += 1
        self.scheduler.requeue([item])

    @rule(data=st.data())
    def cancel_queued(self, data: st.DataObject) -> None:
        if waiting := [item for item in self.submitted if item.state == "queued"]:
            item = data.draw(st.sampled_from(waiting))
            assert self.scheduler.finish(item)
            self.left.append(item)

    @rule(seconds=st.integers(1, 3))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def expire(self) -> None:
        expired = self.scheduler.expire(self.now)
        assert all(item.deadline is not None and item.deadline <= self.now for item in expired)
        self.left += expired
        late = [item for item in self.scheduler.items() if item.deadline is not None and item.deadline <= self.now]
        assert not late

    @invariant()
    def books_balance(self) -> None:
        queued = [item for item in self.submitted if item.state == "queued"]
        running = [item for item in self.submitted if item.state == "running"]
        assert self.scheduler.queued == len(queued)
        assert self.scheduler.queued_tokens == sum(item.tokens for item in queued)
        assert self.scheduler.running == len(running)
        assert self.scheduler.live == len(queued) + len(running)
        assert len({item.seq for item in self.left}) == len(self.left), "each leaves once"
        ended = [item for item in self.submitted if item.state == "done"]
        assert len(ended) + self.scheduler.live == len(self.submitted), "nothing is lost"
        unreported = {item.seq for item in ended} - {item.seq for item in self.left}  # until the next ``expire``
        assert all(item.deadline is not None for item in ended if item.seq in unreported)

    def teardown(self) -> None:
        """Whatever happened before, everything that is left can be run to its end."""
        for item in self.scheduler.items():
            if item.state == "running":
                assert self.scheduler.finish(item)
                self.left.append(item)
        for kind in ("score", "generate"):
            while (anchor := self.scheduler.oldest(kind, self.now)) is not None:
                for item in self.scheduler.take(anchor, Room(4, 60), now=self.now):
                    assert self.scheduler.finish(item)
                    self.left.append(item)
        self.left += self.scheduler.expire(self.now)
        assert self.scheduler.live == 0
        assert self.scheduler.queued_tokens == 0
        assert sorted(item.seq for item in self.left) == sorted(item.seq for item in self.submitted)


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


@given(
    odd_length=lengths,
    crowd=st.lists(st.lists(lengths, min_size=1, max_size=6), min_size=1, max_size=20),
    ahead=st.lists(lengths, max_size=10),
)
def test_an_odd_length_is_not_starved_by_a_crowd_of_others(
    odd_length: int, crowd: list[list[int]], ahead: list[int]
) -> None:
    scheduler: Scheduler[Item] = Scheduler(Limits())
    now = 0.0

    def add(tokens: int) -> Item:
        item = Item(model="m", kind="score", tokens=tokens)
        assert scheduler.admit([item], now) == "fits"
        return item

    for tokens in ahead:
        add(tokens)
    odd = add(odd_length)
    turns = 0
    while odd.state == "queued":
        now += 1
        for tokens in crowd[turns % len(crowd)]:
            add(tokens)
        anchor = scheduler.oldest("score", now)
        assert anchor is not None
        scheduler.take(anchor, Room(rows=4, tokens=100), now=now)
        turns += 1
        assert turns <= len(ahead) + 1, "each turn takes the oldest, so only those who came before can go before"


def test_an_item_expires_in_the_moment_of_its_deadline_and_is_never_offered_again() -> None:
    scheduler: Scheduler[Item] = Scheduler(Limits())
    late = Item(model="m", kind="score", tokens=1, deadline=5.0)
    other = Item(model="m", kind="score", tokens=1)
    assert scheduler.admit([late, other], 0.0) == "fits"
    assert scheduler.oldest("score", 4.9) is late
    anchor = scheduler.oldest("score", 5.0)
    assert anchor is other
    assert scheduler.take(anchor, Room(8, 8), now=0.0) == [other]
    assert scheduler.expire(5.0) == [late]
    assert scheduler.expire(5.0) == [], "and reported once"


@given(low=st.integers(-10, 10), high=st.integers(-10, 10))
def test_priority_overtakes_but_only_for_so_long(low: int, high: int) -> None:
    low, high = sorted((low, high))
    scheduler: Scheduler[Item] = Scheduler(Limits())
    patient = Item(model="m", kind="score", tokens=1, priority=low)
    scheduler.admit([patient], 0.0)
    head_start = (high - low) * PRIORITY_STEP_S
    scheduler.admit([Item(model="m", kind="score", tokens=1, priority=high)], head_start + 0.5)
    assert scheduler.oldest("score", head_start + 1) is patient
    if low < high:
        urgent = Item(model="m", kind="score", tokens=1, priority=high)
        scheduler.admit([urgent], head_start - 0.5)
        assert scheduler.oldest("score", head_start + 1) is urgent


@given(
    tokens=st.lists(lengths, min_size=1, max_size=20),
    anchor_at=st.integers(0, 19),
    room=st.builds(Room, rows=st.integers(1, 6), tokens=st.integers(1, 300)),
)
def test_a_batch_is_a_full_run_of_nearest_lengths(tokens: list[int], anchor_at: int, room: Room) -> None:
    lane: Lane[Item] = Lane()
    items = [Item(model="m", kind="score", tokens=n, seq=seq, state="queued") for seq, n in enumerate(tokens)]
    for item in items:
        lane.add(item)
    anchor = items[anchor_at % len(items)]
    batch = gather({"": lane}, anchor, room, had=lambda _: 0.0, now=0.0)
    ordered = sorted(items, key=lambda item: (item.tokens, item.seq))
    first = ordered.index(batch[0])
    assert batch == ordered[first : first + len(batch)], "no shorter padding was possible by skipping someone"
    if len(batch) < room.rows:
        rows = len(batch) + 1
        if first > 0:
            assert rows * batch[-1].tokens > room.tokens, "there was room for one shorter"
        if first + len(batch) < len(ordered):
            assert rows * ordered[first + len(batch)].tokens > room.tokens, "there was room for one longer"


@given(st.integers(1, 5), st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_decoding_has_its_share_and_verdicts_go_first(max_streak: int, work: list[tuple[bool, bool]]) -> None:
    turns = Turns(max_streak)
    passed_over = 0
    for score, generate in work:
        kind = turns.choose(score=score, generate=generate)
        assert (kind is None) == (not score and not generate)
        assert kind != "score" or score
        assert kind != "generate" or generate
        if score and passed_over < max_streak:
            assert kind == "score", "verdicts first"
        passed_over = passed_over + 1 if generate and kind == "score" else 0
        assert passed_over <= max_streak


@given(st.lists(lengths, max_size=60))
def test_a_list_is_split_into_parts_that_fit_and_nothing_is_lost(tokens: list[int]) -> None:
    jobs = [ScoreJob(model="m", kind="score", tokens=n, request=ScoreRequest("m", (0,) * n, (1,))) for n in tokens]
    scheduler: Scheduler[ScoreJob] = Scheduler(LIMITS)
    parts = list(split(jobs, LIMITS))
    assert [job for part in parts for job in part] == jobs
    assert all(part and scheduler.could_fit(part) for part in parts)
    if scheduler.could_fit(jobs) and jobs:
        assert len(parts) == 1, "what fits is one unit"
