"""Deadlines, cancellation and priority in the pool under real threads."""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import CancelledError, wait

import pytest

from guardrail_plugin.core.errors import GuardianTimeout
from guardrail_plugin.pool import InferencePool, ScoreResult
from guardrail_plugin.testing.replicas import Hold, ScriptedReplica

from .held_pool import WAIT_S, Held, auntil, batches, echo, held_pool, ident_of, score

held = pytest.fixture(held_pool)


def test_a_deadline_ends_queued_and_running_work_while_the_replica_hangs() -> None:
    now, hold, again = [0.0], Hold(), Hold()
    replica = ScriptedReplica(logprobs=echo, on_call=hold)
    slow = ScriptedReplica(logprobs=echo, on_call=again)
    with InferencePool(clock=lambda: now[0]) as pool:
        pool.register("m", replica.factory)
        pool.submit(score(0))
        assert hold.entered.wait(WAIT_S)
        queued = pool.submit(score(1), timeout_s=0.05)
        now[0] += 1.0
        with pytest.raises(GuardianTimeout) as caught:
            queued.result(WAIT_S)
        assert caught.value.timeout_s == 0.05
        assert isinstance(caught.value, TimeoutError)
        assert pool.stats().expired == 1
        hold.release()
        pool.submit(score(2)).result(WAIT_S)
        assert 1 not in [ident for batch in batches(replica) for ident in batch], "expired work is never run"

        pool.register("slow", slow.factory)
        running = pool.submit(score(3, model="slow"), timeout_s=0.2)
        assert again.entered.wait(WAIT_S)
        assert not running.done()
        now[0] += 1.0
        with pytest.raises(GuardianTimeout):
            running.result(WAIT_S)
        again.release()
        assert ident_of(pool.submit(score(4, model="slow")).result(WAIT_S)) == 4


@pytest.mark.parametrize("timeout_s", [0, -1.0])
def test_a_deadline_that_has_passed_is_told_at_once(timeout_s: float) -> None:
    with InferencePool() as pool:
        pool.register("m", ScriptedReplica().factory)
        with pytest.raises(GuardianTimeout):
            pool.submit(score(1), timeout_s=timeout_s)
        assert [type(outcome) for outcome in pool.score_many([score(1)], timeout_s=timeout_s)] == [GuardianTimeout]
        assert isinstance(pool.submit(score(1), timeout_s=math.inf).result(WAIT_S), ScoreResult)


def test_cancelling_a_queued_future_frees_its_place_at_once(held: Held) -> None:
    pool, replica, hold = held
    futures = pool.submit_many([score(ident) for ident in range(1, 5)])
    assert futures[1].cancel()
    assert futures[1].cancel(), "twice is fine"
    done, _ = wait([futures[1]], WAIT_S)
    assert done, "concurrent.futures.wait hears of it"
    assert pool.stats().queued == 3
    late = pool.submit(score(5))
    hold.release()
    assert ident_of(late.result(WAIT_S)) == 5
    with pytest.raises(CancelledError):
        futures[1].result(0)
    assert 2 not in [ident for batch in batches(replica) for ident in batch]
    assert pool.stats().cancelled == 1


async def test_callers_cancelled_mid_batch_do_not_disturb_the_others() -> None:
    hold = Hold()
    replica = ScriptedReplica(logprobs=echo, on_call=hold)
    async with InferencePool(max_batch=4) as pool:
        pool.register("m", replica.factory)
        first = pool.submit(score(0))
        await asyncio.to_thread(hold.entered.wait, WAIT_S)
        running = asyncio.ensure_future(asyncio.wrap_future(first))
        tasks = [asyncio.ensure_future(pool.ascore_many([score(ident)])) for ident in range(1, 9)]
        await auntil(lambda: pool.stats().queued == 8)
        for task in tasks[::2]:
            task.cancel()
        running.cancel()
        gone = await asyncio.gather(running, *tasks[::2], return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in gone)
        assert pool.stats().queued == 4
        hold.release()
        assert [ident_of((await task)[0]) for task in tasks[1::2]] == [2, 4, 6, 8]
        assert batches(replica) == [[0], [2, 4, 6, 8]]
        assert first.result(WAIT_S), "the running request was finished and its answer dropped"


async def test_wait_for_gives_the_loop_back_in_time() -> None:
    hold = Hold()
    async with InferencePool(drain_s=0.1) as pool:
        pool.register("m", ScriptedReplica(on_call=hold).factory)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(pool.ascore_many([score(1)]), timeout=0.05)
        hold.release()


def test_priority_goes_first_among_what_waits(held: Held) -> None:
    pool, replica, hold = held
    calm = pool.submit(score(1))
    pool.register("other", replica.factory)  # the same, which then tells the order of both models' batches
    urgent = pool.submit(score(2, model="other"), priority=5)
    hold.release()
    assert [ident_of(future.result(WAIT_S)) for future in (calm, urgent)] == [1, 2]
    assert batches(replica) == [[0], [2], [1]]
