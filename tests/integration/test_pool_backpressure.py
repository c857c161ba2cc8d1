"""The pool's bounds under real threads: full queues, callers held back, waits that are known to be too long."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import wait

import pytest

from guardrail_plugin.core.errors import GuardianTimeout, PoolOverloaded
from guardrail_plugin.pool import InferencePool
from guardrail_plugin.testing.replicas import Call, Hold, ScriptedReplica

from .held_pool import WAIT_S, Held, auntil, batches, echo, held_pool, ident_of, run_threads, score

held = pytest.fixture(held_pool)


def test_a_full_queue_rejects_at_once_and_recovers(held: Held) -> None:
    pool, _, hold = held
    futures = [pool.submit(score(ident)) for ident in range(1, 5)]
    with pytest.raises(PoolOverloaded, match="queue is full") as caught:
        pool.submit(score(5))
    assert caught.value.retry_after_s > 0
    assert (pool.stats().rejected, pool.stats().queued) == (1, 4)
    hold.release()
    assert [ident_of(future.result(WAIT_S)) for future in futures] == [1, 2, 3, 4]
    assert ident_of(pool.submit(score(5)).result(WAIT_S)) == 5


def test_queued_tokens_are_bounded_too_and_each_item_of_a_list_counts(held: Held) -> None:
    pool, _, _ = held
    pool.submit(score(1, tokens=60))
    with pytest.raises(PoolOverloaded):
        pool.submit(score(2, tokens=41))
    with pytest.raises(PoolOverloaded):
        pool.submit_many([score(ident) for ident in range(10, 14)])
    assert pool.stats().queued == 1, "all or nothing"
    assert len(pool.submit_many([score(ident) for ident in range(10, 13)])) == 3


def test_a_list_larger_than_the_queue_is_named_and_score_many_takes_it_in_parts(held: Held) -> None:
    pool, replica, hold = held
    large = [score(ident) for ident in range(100, 120)]
    with pytest.raises(PoolOverloaded, match="a list of 20 requests with 20 tokens is larger than the whole queue"):
        pool.submit_many(large)
    hold.release()
    assert [ident_of(outcome) for outcome in pool.score_many(large)] == list(range(100, 120))
    assert max(map(len, batches(replica))) <= 4


def test_a_single_request_over_every_bound_still_runs() -> None:
    replica = ScriptedReplica(logprobs=echo)
    with InferencePool(max_queued_tokens=10, max_batch_tokens=10) as pool:
        pool.register("m", replica.factory)
        outcomes = pool.score_many([score(ident, tokens=50) for ident in range(5)])
        assert [ident_of(outcome) for outcome in outcomes] == list(range(5))


def test_score_many_puts_an_overload_in_its_place_and_empty_lists_cost_nothing(held: Held) -> None:
    pool, _, _ = held
    assert pool.score_many([]) == []
    assert pool.submit_many([]) == []
    pool.submit_many([score(ident) for ident in range(4)])
    assert [type(outcome) for outcome in pool.score_many([score(10), score(11)])] == [PoolOverloaded, PoolOverloaded]


def test_on_full_wait_holds_sync_and_async_callers_back_in_order() -> None:
    hold = Hold()
    replica = ScriptedReplica(logprobs=echo, on_call=hold)
    blocked = threading.Event()
    with InferencePool(max_queued=2, max_batch=1, on_full="wait") as pool:
        pool.register("m", replica.factory)
        pool.submit(score(0))
        assert hold.entered.wait(WAIT_S)
        pool.submit_many([score(1), score(2)])

        def sync_caller() -> None:
            assert ident_of(pool.submit(score(3)).result(WAIT_S)) == 3

        async def async_callers() -> None:
            tasks = [asyncio.ensure_future(pool.ascore_many([score(ident)])) for ident in (4, 5)]
            # The loop goes on turning while its callers are held back.
            turns = await auntil(lambda: pool.stats().blocked == 3)
            blocked.set()
            assert [ident_of((await task)[0]) for task in tasks] == [4, 5]
            assert turns

        def releaser() -> None:
            assert blocked.wait(WAIT_S)
            assert pool.stats().queued == 2
            hold.release()

        run_threads(sync_caller, lambda: asyncio.run(async_callers()), releaser)
        assert pool.stats().rejected == 0


def test_a_done_callback_that_submits_to_a_full_queue_is_turned_away_and_does_not_stop_the_pool() -> None:
    hold = Hold()
    replica = ScriptedReplica(logprobs=echo, on_call=hold)
    refused: list[PoolOverloaded] = []
    with InferencePool(replicas=1, max_queued=1, max_batch=1, on_full="wait") as pool:
        pool.register("m", replica.factory)

        def again(_: object) -> None:
            try:
                pool.submit(score(2))
            except PoolOverloaded as error:
                refused.append(error)

        first = pool.submit(score(0))
        assert hold.entered.wait(WAIT_S)
        first.add_done_callback(again)
        second = pool.submit(score(1))
        hold.release()
        assert ident_of(second.result(WAIT_S)) == 1
        assert len(refused) == 1, "the pool's only thread does not wait for room that nobody else can make"
        assert pool.stats().blocked == 0
    assert batches(replica) == [[0], [1]]


async def test_a_caller_held_back_is_told_when_its_time_is_up_and_can_be_cancelled() -> None:
    hold = Hold()
    replica = ScriptedReplica(logprobs=echo, on_call=hold)
    async with InferencePool(max_queued=1, max_batch=1, on_full="wait") as pool:
        pool.register("m", replica.factory)
        pool.submit(score(0))
        await asyncio.to_thread(hold.entered.wait, WAIT_S)
        pool.submit(score(1))
        assert isinstance((await pool.ascore_many([score(2)], timeout_s=0.05))[0], GuardianTimeout)
        with pytest.raises(GuardianTimeout):
            await asyncio.to_thread(pool.submit, score(3), timeout_s=0.05)
        task = asyncio.ensure_future(pool.ascore_many([score(4)]))
        await auntil(lambda: pool.stats().blocked == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pool.stats().blocked == 0
        hold.release()
    assert 4 not in [ident for batch in batches(replica) for ident in batch]


def test_a_wait_known_to_be_longer_than_the_deadline_is_rejected_at_once() -> None:
    now = [0.0]

    def tick(call: Call) -> None:
        if call.kind == "score":
            hold(call)
            now[0] += 1.0  # each batch takes one second of the pool's clock

    hold = Hold()
    replica = ScriptedReplica(logprobs=echo, on_call=tick)
    with InferencePool(max_batch=1, clock=lambda: now[0]) as pool:
        pool.register("m", replica.factory)
        futures = [pool.submit(score(ident, tokens=10)) for ident in range(6)]
        hold.release()
        wait(futures, WAIT_S)
        blocked = Hold()
        hold = blocked
        pool.submit(score(10))
        assert blocked.entered.wait(WAIT_S)
        backlog = [pool.submit(score(ident, tokens=10)) for ident in range(20, 25)]  # five seconds of work
        with pytest.raises(PoolOverloaded, match="estimated wait") as caught:
            pool.submit(score(30), timeout_s=2.0)
        assert caught.value.retry_after_s == pytest.approx(5.0, rel=0.2)
        assert pool.submit(score(31), timeout_s=60.0)
        blocked.release()
        wait(backlog, WAIT_S)
