"""Flows, driven by hand."""

from __future__ import annotations

import time

import pytest

from guardrail_plugin.core.errors import PoolClosed, PoolOverloaded
from guardrail_plugin.pool.admission import Limits
from guardrail_plugin.pool.bridge import ScoreMany
from guardrail_plugin.pool.jobqueue import JobQueue
from guardrail_plugin.pool.jobs import ScoreJob
from guardrail_plugin.pool.protocol import ScoreRequest, ScoreResult
from guardrail_plugin.pool.slot import Slot
from guardrail_plugin.pool.turns import ScoreTurn

LIMITS = Limits(max_queued=4, max_batch=4)


@pytest.fixture
def slot() -> Slot:
    return Slot(index=0, device="cpu", limits=LIMITS, max_score_streak=1, max_decodes=1)


@pytest.fixture
def queue(slot: Slot) -> JobQueue:
    queue = JobQueue(limits=LIMITS, slots=[slot], max_attempts=1, clock=time.monotonic)
    queue.open()
    return queue


def score(ident: int) -> ScoreJob:
    return ScoreJob(model="m", kind="score", tokens=1, request=ScoreRequest("m", (ident,), (1,)))


def answer_a_batch(queue: JobQueue, slot: Slot) -> list[int]:
    turn = queue.next_turn(slot)
    assert isinstance(turn, ScoreTurn)
    for job in queue.finish(turn.jobs, "completed"):
        job.answer(ScoreResult((float(job.request.input_ids[0]),)))
    return [job.request.input_ids[0] for job in turn.jobs]


def many(queue: JobQueue, count: int) -> ScoreMany:
    return ScoreMany([score(ident) for ident in range(count)], queue=queue, limits=LIMITS, wait=False)


def test_later_parts_of_a_long_list_wait_for_room_though_the_pool_rejects(queue: JobQueue, slot: Slot) -> None:
    task = many(queue, 6)  # longer than the queue: parts of one
    flow = task.flow()
    first = next(flow)
    assert answer_a_batch(queue, slot) == [0]
    assert first.done()
    queue.admit([score(ident) for ident in range(10, 14)], wait=False)  # others fill the queue meanwhile
    second = next(flow)
    assert not second.done()
    assert queue.snapshot().blocked == 1
    assert answer_a_batch(queue, slot) == [10, 11, 12, 13]
    assert second.done(), "let in as soon as there is room"
    for _ in flow:
        answer_a_batch(queue, slot)
    assert task.outcomes == [ScoreResult((float(ident),)) for ident in range(6)]


def test_the_first_part_is_turned_away_like_everybody_and_the_rest_with_it(queue: JobQueue) -> None:
    queue.admit([score(ident) for ident in range(4)], wait=False)
    task = many(queue, 6)
    assert list(task.flow()) == []
    assert [type(outcome) for outcome in task.outcomes] == [PoolOverloaded] * 6


def test_a_pool_that_closes_midway_keeps_the_answers_so_far(queue: JobQueue, slot: Slot) -> None:
    task = many(queue, 6)
    flow = task.flow()
    next(flow)
    answer_a_batch(queue, slot)
    next(flow)
    queue.shut()
    assert list(flow) == []
    assert task.outcomes[0] == ScoreResult((0.0,))
    assert [type(outcome) for outcome in task.outcomes[1:]] == [PoolClosed] * 5


def test_closing_a_flow_withdraws_what_is_queued(queue: JobQueue, slot: Slot) -> None:
    task = many(queue, 3)
    flow = task.flow()
    next(flow)
    assert queue.snapshot().queued == 3
    flow.close()
    stats = queue.snapshot()
    assert (stats.queued, stats.cancelled) == (0, 3)
