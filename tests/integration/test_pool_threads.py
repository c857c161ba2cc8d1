"""The pool under real threads: batches, callers in threads and event loops."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from concurrent.futures import wait

import pytest

from guardrail_plugin.core.errors import InferenceError
from guardrail_plugin.pool import GenerateRequest, Generation, InferencePool, ScoreRequest
from guardrail_plugin.testing.replicas import Hold, ScriptedReplica

from .held_pool import WAIT_S, Held, batches, echo, held_pool, ident_of, patient_join, run_threads, score

held = pytest.fixture(held_pool)
patient = pytest.fixture(autouse=True)(patient_join)


# -- batches


def test_what_waits_while_a_batch_runs_goes_in_one_batch(held: Held) -> None:
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
        [outcome] = await asyncio.gather(task, return_exceptions=True)
        if not isinstance(outcome, asyncio.CancelledError):  # the answer came first
            assert not isinstance(outcome, BaseException), outcome
            assert ident_of(outcome[0]) == ident

    async def in_loop(caller: int) -> None:
        await asyncio.gather(
            *(in_task(ident) for ident in idents(caller)),
            *(decode(ident) for ident in range(5)),
            *(give_up(90 + ident) for ident in range(5)),
        )

    replica = ScriptedReplica(logprobs=echo, fail=fail)
    # No time passes for it: a batch that this machine lets wait would else have later ones turned away by forecast.
    with InferencePool(replicas=2, max_batch=8, max_queued=4096, clock=lambda: 0.0) as pool:
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


def test_a_done_callback_that_raises_anything_harms_nobody(held: Held) -> None:
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
