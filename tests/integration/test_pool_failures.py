"""What goes wrong below the pool: bad items, full memory, dead replicas, dead threads, factories that fail."""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait

import pytest

from guardrail_plugin.core.errors import InferenceError, ModelNotFoundError, ReplicaDead
from guardrail_plugin.pool import GenerateRequest, Generation, InferencePool, ScoreRequest, ScoreResult
from guardrail_plugin.pool import worker as worker_room
from guardrail_plugin.pool.health import FIRST_BACKOFF_S, TRIP_AFTER
from guardrail_plugin.testing.replicas import Call, Hold, OutOfMemoryError, ScriptedReplica

from .held_pool import WAIT_S, patient_join

SECRET = 987654321

patient = pytest.fixture(autouse=True)(patient_join)


def score(ident: int) -> ScoreRequest:
    return ScoreRequest("m", (ident,), (1, 2))


def echo(request: ScoreRequest) -> list[float]:
    return [float(request.input_ids[0]), 0.0]


def settled(futures: list[Future[ScoreResult]]) -> list[int | str]:
    """Per request the id that its answer carries, or the name of its error."""
    done, hanging = wait(futures, WAIT_S)
    assert not hanging, "a waiter hangs"
    assert len(done) == len(futures)
    shown: list[int | str] = []
    for future in futures:
        error = future.exception(0)
        shown.append(type(error).__name__ if error else int(future.result(0).logprobs[0]))
    return shown


def one_batch(pool: InferencePool, hold: Hold, idents: list[int]) -> list[Future[ScoreResult]]:
    """Queue requests while the replica is busy with request 0, so that they meet in one batch."""
    first = pool.submit(score(0))
    assert hold.entered.wait(WAIT_S)
    futures = pool.submit_many([score(ident) for ident in idents])
    hold.release()
    return [first, *futures]


# -- bad items, full memory


@pytest.mark.parametrize("poison", [{3}, {1, 8}, {1, 2, 3, 4, 5, 6, 7, 8}])
def test_a_poison_item_fails_alone(poison: set[int]) -> None:
    hold = Hold()
    replica = ScriptedReplica(
        logprobs=echo, on_call=hold, fail=lambda r: ValueError("bad") if r.input_ids[0] in poison else None
    )
    with InferencePool() as pool:
        pool.register("m", replica.factory)
        futures = one_batch(pool, hold, list(range(1, 9)))
        assert settled(futures) == [0, *("InferenceError" if ident in poison else ident for ident in range(1, 9))]
        stats = pool.stats()
        assert (stats.failed, stats.completed, stats.replica_restarts) == (len(poison), 9 - len(poison), 0)


def test_an_inference_error_names_the_type_only_and_chains_its_cause() -> None:
    replica = ScriptedReplica(fail=lambda r: ValueError(f"token {SECRET} is out of range"))
    with InferencePool() as pool:
        pool.register("m", replica.factory)
        error = pool.submit(score(SECRET)).exception(WAIT_S)
    assert isinstance(error, InferenceError)
    assert str(error) == "the model failed on this request (ValueError)"
    assert isinstance(error.__cause__, ValueError)
    assert str(SECRET) not in repr(error)


def test_a_replica_that_answers_too_few_fails_its_requests_and_hangs_nobody() -> None:
    class Short(ScriptedReplica):
        def score(self, batch: object) -> list[ScoreResult]:
            return []

    with InferencePool() as pool:
        pool.register("m", Short().factory)
        assert settled(pool.submit_many([score(1), score(2)])) == ["InferenceError", "InferenceError"]


def test_running_out_of_memory_splits_the_batch_and_shrinks_the_next_ones() -> None:
    hold = Hold()
    replica = ScriptedReplica(logprobs=echo, on_call=hold, max_rows=3)
    with InferencePool(max_batch_tokens=16) as pool:
        pool.register("m", replica.factory)
        assert settled(one_batch(pool, hold, list(range(1, 17)))) == list(range(17))
        stats = pool.stats()
        assert stats.oom_splits >= 3
        (budget,) = stats.slots[0].budget_tokens
        assert budget[0] == "m"
        assert 1 <= budget[1] <= 3
        splits = stats.oom_splits
        assert settled(pool.submit_many([score(ident) for ident in range(20, 32)])) == list(range(20, 32))
        assert pool.stats().oom_splits == splits, "the lesson was learnt"


def test_a_single_item_that_does_not_fit_fails_alone() -> None:
    replica = ScriptedReplica(
        logprobs=echo, fail=lambda r: OutOfMemoryError("too long") if r.input_ids[0] == 2 else None
    )
    with InferencePool() as pool:
        pool.register("m", replica.factory)
        assert settled(pool.submit_many([score(1), score(2), score(3)])) == [1, "InferenceError", 3]


# -- dead replicas


@pytest.mark.parametrize("death", [SystemExit(1), ReplicaDead("device lost"), KeyboardInterrupt()])
def test_a_replica_killed_mid_batch_is_replaced_and_its_work_done_again(death: BaseException) -> None:
    deaths = [death]
    hold = Hold()
    replica = ScriptedReplica(
        logprobs=echo, on_call=hold, fail=lambda r: deaths.pop() if deaths and r.input_ids[0] == 3 else None
    )
    with InferencePool() as pool:
        pool.register("m", replica.factory)
        assert settled(one_batch(pool, hold, [1, 2, 3, 4])) == [0, 1, 2, 3, 4]
        stats = pool.stats()
        assert (stats.replica_restarts, stats.failed, stats.completed) == (1, 0, 5)
    assert replica.count("build") == 2
    assert replica.count("close") == 2, "the dead one was closed too"


def test_a_request_that_kills_every_replica_fails_alone() -> None:
    hold = Hold()
    replica = ScriptedReplica(logprobs=echo, on_call=hold, fail=lambda r: SystemExit() if r.input_ids[0] == 3 else None)
    with InferencePool(max_attempts=3) as pool:
        pool.register("m", replica.factory)
        futures = one_batch(pool, hold, list(range(1, 9)))
        assert settled(futures) == [0, 1, 2, "ReplicaDead", 4, 5, 6, 7, 8]
        error = futures[3].exception()
        assert "3 replicas of 'm' died under this request (SystemExit)" in str(error)
        assert settled([pool.submit(score(9))]) == [9], "and the model is not given up for it"
    assert pool.stats().replica_restarts == 3


def test_a_model_whose_replicas_keep_dying_is_paused_and_everybody_told_at_once() -> None:
    offset = [0.0]
    sick = [True]
    replica = ScriptedReplica(logprobs=echo, fail=lambda r: SystemExit() if sick else None)
    with InferencePool(max_attempts=2, clock=lambda: offset[0]) as pool:
        pool.register("m", replica.factory)
        for ident in range(TRIP_AFTER):
            assert settled([pool.submit(score(ident))]) == ["ReplicaDead"]
        builds = replica.count("build")
        with pytest.raises(ReplicaDead, match="no replica of 'm' is working"):
            pool.submit(score(9))
        assert [type(outcome) for outcome in pool.score_many([score(9)])] == [ReplicaDead]
        assert replica.count("build") == builds, "nothing was tried"
        assert pool.stats().slots[0].broken == ("m",)
        sick.clear()
        offset[0] += FIRST_BACKOFF_S * 10
        assert settled([pool.submit(score(10))]) == [10], "after the pause it is tried again"
        assert pool.stats().slots[0].broken == ()


def test_one_models_death_leaves_the_other_models_replica_alone() -> None:
    deaths = [SystemExit()]
    sick = ScriptedReplica(logprobs=echo, fail=lambda r: deaths.pop() if deaths else None)
    well = ScriptedReplica(logprobs=echo)
    with InferencePool() as pool:
        pool.register("m", sick.factory)
        pool.register("well", well.factory)
        pool.submit(ScoreRequest("well", (1,), (1, 2))).result(WAIT_S)
        assert settled([pool.submit(score(5))]) == [5]
        pool.submit(ScoreRequest("well", (1,), (1, 2))).result(WAIT_S)
    assert (sick.count("build"), well.count("build")) == (2, 1)


def test_a_decode_survives_its_replica_and_does_not_repeat_tokens() -> None:
    deaths = [SystemExit()]

    def dies_at_the_third_step(call: Call) -> None:
        if call.kind == "step" and replica.count("step") == 3 and deaths:
            raise deaths.pop()

    def count_on(request: GenerateRequest) -> range:
        return range(request.input_ids[-1] + 1, 100)

    replica = ScriptedReplica(tokens=count_on, on_call=dies_at_the_third_step)
    with InferencePool() as pool:
        pool.register("m", replica.factory)
        tokens = list(pool.stream(GenerateRequest("m", (9,), max_new_tokens=6)))
        assert tokens == [10, 11, 12, 13, 14, 15]
        assert pool.stats().replica_restarts == 1
        whole = pool.generate(GenerateRequest("m", (9,), max_new_tokens=3))
        assert whole == Generation((10, 11, 12), "length")


# -- dead threads


def kill_thread(name: str, *, before: set[threading.Thread]) -> None:
    """Kill the thread of that name that was not there before: an earlier test's may still be ending."""
    (thread,) = {thread for thread in threading.enumerate() if thread.name == name} - before
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))


def test_a_thread_killed_from_outside_mid_batch_leaves_nobody_waiting() -> None:
    """Issue: kill the replica's thread mid-batch."""
    entered, spin = threading.Event(), threading.Event()

    def busy(call: Call) -> None:
        if call.kind == "score" and not entered.is_set():
            entered.set()
            while not spin.wait(0.001):  # bytecode to interrupt
                pass

    replica, before = ScriptedReplica(logprobs=echo, on_call=busy), set(threading.enumerate())
    with InferencePool(replicas=1) as pool:
        pool.register("m", replica.factory)
        futures = pool.submit_many([score(ident) for ident in range(6)])
        assert entered.wait(WAIT_S)
        futures.append(pool.submit(score(6)))
        kill_thread("guardrail-pool-0", before=before)
        assert settled(futures) == [0, 1, 2, 3, 4, 5, 6]
        assert pool.stats().replica_restarts == 1


def test_a_thread_killed_while_idle_is_replaced() -> None:
    replica, before = ScriptedReplica(logprobs=echo), set(threading.enumerate())
    with InferencePool(replicas=1) as pool:
        pool.register("m", replica.factory)
        assert settled([pool.submit(score(1))]) == [1]
        kill_thread("guardrail-pool-0", before=before)  # raised when it wakes for the next request
        assert settled([pool.submit(score(2))]) == [2]
        assert settled([pool.submit(score(3))]) == [3]


def test_an_error_in_the_pools_own_code_kills_the_thread_not_the_waiters(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real: Callable[..., object] = worker_room.score_batch
    bugs = [RuntimeError("a bug of ours")]

    def buggy(*args: object, **kwargs: object) -> object:
        if bugs:
            raise bugs.pop()
        return real(*args, **kwargs)

    monkeypatch.setattr(worker_room, "score_batch", buggy)
    replica = ScriptedReplica(logprobs=echo)
    with InferencePool() as pool, caplog.at_level(logging.ERROR, logger="guardrail_plugin.pool"):
        pool.register("m", replica.factory)
        assert settled(pool.submit_many([score(SECRET), score(2)])) == [SECRET, 2]
        assert pool.stats().slots[0].restarts == 1
    assert replica.count("build") == 2
    assert "a pool thread died of RuntimeError" in caplog.text
    assert str(SECRET) not in caplog.text


def test_a_slot_whose_threads_keep_dying_is_given_up_and_everybody_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def buggy(*args: object, **kwargs: object) -> object:
        raise SystemExit

    monkeypatch.setattr(worker_room, "score_batch", buggy)
    with InferencePool(max_attempts=2) as pool:
        pool.register("m", ScriptedReplica().factory)
        outcomes = [pool.score_many([score(ident)])[0] for ident in range(10)]
        assert all(isinstance(outcome, ReplicaDead) for outcome in outcomes)
        assert "2 replicas of 'm' died under this request" in str(outcomes[0])
        assert str(outcomes[-1]) == "no worker thread of this pool could be kept alive"
        assert pool.stats().slots[0].phase == "retired"


# -- factories that fail


def test_a_factory_that_fails_once_is_asked_again() -> None:
    replica = ScriptedReplica(logprobs=echo)
    failures = [OSError("busy device")]

    def build(device: str) -> ScriptedReplica:
        if failures:
            raise failures.pop()
        return replica

    with InferencePool() as pool:
        pool.register("m", build)
        assert settled(pool.submit_many([score(1), score(2)])) == [1, 2]


@pytest.mark.parametrize("error", [OSError("no device"), ModelNotFoundError("no weights"), SystemExit(3)])
def test_a_factory_that_keeps_failing_fails_all_waiters_at_once_and_is_tried_again_later(error: BaseException) -> None:
    offset = [0.0]
    broken = [error]
    replica = ScriptedReplica(logprobs=echo)
    tries: list[str] = []
    first = threading.Event()
    go = threading.Event()

    def build(device: str) -> ScriptedReplica:
        tries.append(device)
        first.set()
        assert go.wait(WAIT_S)
        if broken:
            raise broken[0]
        return replica

    with InferencePool(max_batch=2, clock=lambda: offset[0]) as pool:
        pool.register("m", build)
        futures = [pool.submit(score(0))]
        assert first.wait(WAIT_S)
        futures += [pool.submit(score(ident)) for ident in range(1, 6)]
        go.set()
        assert settled(futures) == ["ReplicaDead"] * 6, "those behind the first batch too"
        cause = futures[5].exception()
        assert cause is not None
        assert cause.__cause__ is error
        seen = len(tries)
        assert seen == (3 if isinstance(error, OSError) and not isinstance(error, ModelNotFoundError) else 1)
        with pytest.raises(ReplicaDead):
            pool.submit(score(7))
        assert len(tries) == seen
        broken.clear()
        offset[0] += FIRST_BACKOFF_S * 2
        assert settled([pool.submit(score(8))]) == [8]


def test_a_slot_that_cannot_build_leaves_the_work_to_one_that_can() -> None:
    replica = ScriptedReplica(logprobs=echo)

    def build(device: str) -> ScriptedReplica:
        if device == "bad":
            raise ModelNotFoundError("not here")
        return replica

    with InferencePool(devices=["bad", "good"], max_batch=1) as pool:
        pool.register("m", build)
        assert settled(pool.submit_many([score(ident) for ident in range(20)])) == list(range(20))
        assert pool.stats().failed == 0


def test_a_close_that_raises_is_of_no_consequence() -> None:
    class Clinging(ScriptedReplica):
        def close(self) -> None:
            raise SystemExit("not closing")

    with InferencePool() as pool:
        pool.register("m", Clinging(logprobs=echo).factory)
        assert settled([pool.submit(score(1))]) == [1]
    assert pool.stats().phase == "closed"
