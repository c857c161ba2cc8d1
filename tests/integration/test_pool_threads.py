"""The pool under real threads: batches, callers in threads and event loops, backpressure, deadlines, cancellation.

Over 400 lines, since nearly all of it stands on one held pool and five small helpers, which two files would repeat.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, wait

import pytest

from guardrail_plugin.core.errors import GuardianTimeout, InferenceError, PoolOverloaded
from guardrail_plugin.pool import GenerateRequest, Generation, InferencePool, ScoreRequest, ScoreResult
from guardrail_plugin.testing.replicas import Call, Hold, ScriptedReplica

WAIT_S = 20.0


def score(ident: int, *, tokens: int = 1, model: str = "m") -> ScoreRequest:
    return ScoreRequest(model, (ident,) * tokens, (1, 2))


def echo(request: ScoreRequest) -> list[float]:
    """An answer that tells which request it belongs to."""
    return [float(request.input_ids[0]), 0.0]


def ident_of(result: object) -> int:
    assert isinstance(result, ScoreResult), result
    return int(result.logprobs[0])


def run_threads(*targets: Callable[[], None]) -> None:
    """Run all at once; fail if one hangs or raises."""
    errors: list[BaseException] = []

    def guarded(target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(target,), daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert not any(thread.is_alive() for thread in threads), "a caller hangs"
    assert not errors, errors


@pytest.fixture
def held() -> Iterator[tuple[InferencePool, ScriptedReplica, Hold]]:
    """A pool of one slot and a small queue, whose replica is busy with request 0 until the hold is released."""
    hold = Hold()
    replica = ScriptedReplica(logprobs=echo, on_call=hold)
    with InferencePool(max_queued=4, max_batch=4, max_queued_tokens=100, drain_s=0.5) as pool:
        pool.register("m", replica.factory)
        pool.submit(score(0))
        assert hold.entered.wait(WAIT_S)
        yield pool, replica, hold
        hold.release()


def batches(replica: ScriptedReplica) -> list[list[int]]:
    return [[r.input_ids[0] for r in call.requests] for call in replica.calls if call.kind == "score"]


# -- batches


def test_what_waits_while_a_batch_runs_goes_in_one_batch(held: tuple[InferencePool, ScriptedReplica, Hold]) -> None:
    pool, replica, hold = held
    futures = [pool.submit(score(ident)) for ident in (1, 2, 3)]
    hold.release()
    assert [ident_of(future.result(WAIT_S)) for future in futures] == [1, 2, 3]
    assert batches(replica) == [[0], [1, 2, 3]]
    stats = pool.stats()
    assert (stats.batches, stats.mean_batch_size, stats.padding_ratio) == (2, 2.0, 0.0)


def test_batches_hold_one_model_and_near_lengths_under_the_token_budget() -> None:
    hold = Hold()
    replica = ScriptedReplica(logprobs=echo, on_call=hold)
    with InferencePool(max_batch_tokens=24) as pool:
        pool.register("m", replica.factory)
        pool.register("other", replica.factory)
        pool.submit(score(0))
        assert hold.entered.wait(WAIT_S)
        futures = [
            pool.submit(request)
            for request in [
                score(1, tokens=8),
                score(2, tokens=40),
                score(3, tokens=2),
                score(4, tokens=7),
                score(5, tokens=8, model="other"),
                score(6, tokens=8),
            ]
        ]
        hold.release()
        wait(futures, WAIT_S)
        assert batches(replica) == [[0], [4, 1, 6], [2], [3], [5]], "40 tokens are over the budget and run alone"


def test_every_answer_goes_to_its_own_caller_over_several_slots() -> None:
    replica = ScriptedReplica(logprobs=echo)
    with InferencePool(replicas=3, max_batch=5) as pool:
        pool.register("m", replica.factory)
        outcomes = pool.score_many([score(ident, tokens=1 + ident % 7) for ident in range(500)])
        assert [ident_of(outcome) for outcome in outcomes] == list(range(500))
        assert sum(map(len, batches(replica))) == 500
        assert max(map(len, batches(replica))) <= 5


def test_one_list_wakes_as_many_slots_as_it_can_use() -> None:
    meet = threading.Barrier(3, timeout=WAIT_S)
    replica = ScriptedReplica(
        logprobs=echo, on_call=lambda call: meet.wait() and None if call.kind == "score" else None
    )
    with InferencePool(replicas=3, max_batch=1) as pool:
        pool.register("m", replica.factory)
        futures = pool.submit_many([score(ident) for ident in range(3)])
        assert [ident_of(future.result(WAIT_S)) for future in futures] == [0, 1, 2], "all three ran at once"


def test_replicas_live_in_their_slots_thread() -> None:
    replica = ScriptedReplica(logprobs=echo)
    with InferencePool() as pool:
        pool.register("m", replica.factory)
        pool.submit(score(1)).result(WAIT_S)
    assert {(call.kind, call.thread) for call in replica.calls} == {
        ("build", "guardrail-pool-0"),
        ("score", "guardrail-pool-0"),
        ("close", "guardrail-pool-0"),
    }


# -- many callers at once


def test_three_event_loops_and_eight_threads_at_once_every_item_finishes_exactly_once() -> None:
    """Issue: submit from 3 event loops and 8 threads at once; some poisoned, some cancelled, some decoding."""
    per_caller = 40
    poison = 13
    answered: Counter[int] = Counter()
    lock = threading.Lock()

    def fail(request: object) -> BaseException | None:
        bad = isinstance(request, ScoreRequest) and request.input_ids[0] % 100 == poison
        return ValueError("poison") if bad else None

    def note(ident: int, outcome: object) -> None:
        with lock:
            answered[ident] += 1
        if ident % 100 == poison:
            assert isinstance(outcome, InferenceError)
        else:
            assert ident_of(outcome) == ident

    def idents(caller: int) -> range:
        return range(caller * 100, caller * 100 + per_caller)

    def in_thread(caller: int) -> None:
        futures = {ident: pool.submit(score(ident, tokens=1 + ident % 5), timeout_s=WAIT_S) for ident in idents(caller)}
        for ident, future in futures.items():
            note(ident, future.exception(WAIT_S) or future.result(0))

    async def in_task(ident: int) -> None:
        note(ident, (await pool.ascore_many([score(ident)], timeout_s=WAIT_S))[0])

    async def decode(ident: int) -> None:
        made = await pool.agenerate(GenerateRequest("m", (ident,), max_new_tokens=5), timeout_s=WAIT_S)
        assert made == Generation((0, 1, 2, 3, 4), "length")

    async def give_up(ident: int) -> None:
        task = asyncio.ensure_future(pool.ascore_many([score(ident)]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def in_loop(caller: int) -> None:
        await asyncio.gather(
            *(in_task(ident) for ident in idents(caller)),
            *(decode(ident) for ident in range(5)),
            *(give_up(90 + ident) for ident in range(5)),
        )

    replica = ScriptedReplica(logprobs=echo, fail=fail)
    with InferencePool(replicas=2, max_batch=8, max_queued=4096) as pool:
        pool.register("m", replica.factory)
        run_threads(
            *(lambda caller=caller: in_thread(caller) for caller in range(8)),  # type: ignore[misc]
            *(lambda caller=caller: asyncio.run(in_loop(caller)) for caller in range(8, 11)),  # type: ignore[misc]
        )
    assert answered == Counter(ident for caller in range(11) for ident in idents(caller))
    stats = pool.stats()
    assert stats.queued == stats.running == 0
    assert stats.submitted == stats.completed + stats.failed + stats.cancelled + stats.expired
    assert (stats.failed, stats.expired, stats.rejected) == (11, 0, 0)


def test_a_done_callback_may_use_the_pool_again() -> None:
    replica = ScriptedReplica(logprobs=echo)
    second: list[int] = []
    done = threading.Event()
    with InferencePool() as pool:
        pool.register("m", replica.factory)

        def again(_: object) -> None:
            future = pool.submit(score(2))
            future.add_done_callback(lambda f: (second.append(ident_of(f.result())), done.set()))

        pool.submit(score(1)).add_done_callback(again)
        assert done.wait(WAIT_S)
    assert second == [2]


def test_a_done_callback_that_raises_anything_harms_nobody(held: tuple[InferencePool, ScriptedReplica, Hold]) -> None:
    pool, _, hold = held
    called = threading.Event()

    def explode(_: object) -> None:
        called.set()
        raise SystemExit("from a callback")

    bad, good = pool.submit_many([score(1), score(2)])
    bad.add_done_callback(explode)
    hold.release()
    assert ident_of(good.result(WAIT_S)) == 2
    assert called.is_set()
    assert ident_of(bad.result(WAIT_S)) == 1
    assert pool.stats().replica_restarts == 0


# -- backpressure


def test_a_full_queue_rejects_at_once_and_recovers(held: tuple[InferencePool, ScriptedReplica, Hold]) -> None:
    pool, _, hold = held
    futures = [pool.submit(score(ident)) for ident in range(1, 5)]
    with pytest.raises(PoolOverloaded, match="queue is full") as caught:
        pool.submit(score(5))
    assert caught.value.retry_after_s > 0
    assert (pool.stats().rejected, pool.stats().queued) == (1, 4)
    hold.release()
    assert [ident_of(future.result(WAIT_S)) for future in futures] == [1, 2, 3, 4]
    assert ident_of(pool.submit(score(5)).result(WAIT_S)) == 5


def test_queued_tokens_are_bounded_too_and_each_item_of_a_list_counts(
    held: tuple[InferencePool, ScriptedReplica, Hold],
) -> None:
    pool, _, _ = held
    pool.submit(score(1, tokens=60))
    with pytest.raises(PoolOverloaded):
        pool.submit(score(2, tokens=41))
    with pytest.raises(PoolOverloaded):
        pool.submit_many([score(ident) for ident in range(10, 14)])
    assert pool.stats().queued == 1, "all or nothing"
    assert len(pool.submit_many([score(ident) for ident in range(10, 13)])) == 3


def test_a_list_larger_than_the_queue_is_named_and_score_many_takes_it_in_parts(
    held: tuple[InferencePool, ScriptedReplica, Hold],
) -> None:
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


def test_score_many_puts_an_overload_in_its_place_and_empty_lists_cost_nothing(
    held: tuple[InferencePool, ScriptedReplica, Hold],
) -> None:
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
            ticks = 0
            while pool.stats().blocked < 3:  # the loop goes on turning while its callers are held back
                await asyncio.sleep(0.001)
                ticks += 1
            blocked.set()
            assert [ident_of((await task)[0]) for task in tasks] == [4, 5]
            assert ticks

        def releaser() -> None:
            assert blocked.wait(WAIT_S)
            assert pool.stats().queued == 2
            hold.release()

        run_threads(sync_caller, lambda: asyncio.run(async_callers()), releaser)
        assert pool.stats().rejected == 0


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
        while pool.stats().blocked < 1:  # noqa: ASYNC110 - the pool has no event for it
            await asyncio.sleep(0)
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


# -- deadlines and cancellation


def test_a_deadline_ends_queued_and_running_work_while_the_replica_hangs(
    held: tuple[InferencePool, ScriptedReplica, Hold],
) -> None:
    pool, replica, hold = held
    queued = pool.submit(score(1), timeout_s=0.05)
    with pytest.raises(GuardianTimeout) as caught:
        queued.result(WAIT_S)
    assert caught.value.timeout_s == 0.05
    assert isinstance(caught.value, TimeoutError)
    assert pool.stats().expired == 1
    hold.release()
    pool.submit(score(2)).result(WAIT_S)
    assert [1] not in batches(replica), "expired work is never run"

    again = Hold()
    slow = ScriptedReplica(logprobs=echo, on_call=again)
    pool.register("slow", slow.factory)
    running = pool.submit(score(3, model="slow"), timeout_s=0.2)
    assert again.entered.wait(WAIT_S)
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


def test_cancelling_a_queued_future_frees_its_place_at_once(held: tuple[InferencePool, ScriptedReplica, Hold]) -> None:
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
        while pool.stats().queued < 8:  # noqa: ASYNC110 - the pool has no event for it
            await asyncio.sleep(0)
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


def test_priority_goes_first_among_what_waits(held: tuple[InferencePool, ScriptedReplica, Hold]) -> None:
    pool, replica, hold = held
    calm = pool.submit(score(1))
    other = ScriptedReplica(logprobs=echo)
    pool.register("other", other.factory)
    urgent = pool.submit(score(2, model="other"), priority=5)
    order: list[int] = []
    for future in (calm, urgent):
        future.add_done_callback(lambda f: order.append(ident_of(f.result())))
    hold.release()
    wait([calm, urgent], WAIT_S)
    assert order == [2, 1]
    assert batches(replica) == [[0], [1]]
