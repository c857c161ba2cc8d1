"""Closing, draining, forking, exiting: what becomes of waiters and threads."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import wait

import pytest

from guardrail_plugin.core.errors import PoolClosed
from guardrail_plugin.pool import GenerateRequest, InferencePool, ScoreRequest, default_pool
from guardrail_plugin.pool import lifecycle as lifecycle_room
from guardrail_plugin.testing.replicas import Hold, ScriptedReplica

from .held_pool import WAIT_S, auntil, patient_join, until

patient = pytest.fixture(autouse=True)(patient_join)


def score(ident: int = 1) -> ScoreRequest:
    return ScoreRequest("m", (ident,), (1, 2))


def pool_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("guardrail-pool")}


def test_leaving_finishes_what_is_queued_and_joins_the_threads() -> None:
    hold = Hold()
    replica = ScriptedReplica(on_call=hold)
    before = pool_threads()
    with InferencePool(replicas=2, max_batch=2) as pool:
        pool.register("m", replica.factory)
        futures = [pool.submit(score(ident)) for ident in range(20)]
        decode = pool.submit(GenerateRequest("m", (1,), max_new_tokens=20))
        assert hold.entered.wait(WAIT_S)
        hold.release()
    assert all(future.result(0) for future in futures)
    assert len(decode.result(0).token_ids) == 20
    assert pool_threads() <= before, "those of earlier tests may still end"
    assert replica.count("close") == replica.count("build")
    assert pool.stats().phase == "closed"


def test_a_drain_that_takes_too_long_fails_the_rest() -> None:
    hold = Hold()
    pool = InferencePool(max_batch=1, drain_s=0.05)
    with pool:
        pool.register("m", ScriptedReplica(on_call=hold).factory)
        futures = [pool.submit(score(ident)) for ident in range(4)]
        assert hold.entered.wait(WAIT_S)
        # Closing fails the futures before it joins the threads, so the drain is over when this is called.
        futures[0].add_done_callback(lambda _: hold.release())
    assert [type(future.exception(0)) for future in futures] == [PoolClosed] * 4
    assert pool.stats().failed == 4


def test_admission_stops_when_the_drain_begins() -> None:
    hold = Hold()
    with InferencePool(max_queued=1, max_batch=1, on_full="wait") as pool:
        pool.register("m", ScriptedReplica(on_call=hold).factory)
        first = pool.submit(score())
        assert hold.entered.wait(WAIT_S)
        second = pool.submit(score())
        refused: list[BaseException] = []

        def blocked() -> None:
            try:
                pool.submit(score())
            except PoolClosed as error:
                refused.append(error)

        caller = threading.Thread(target=blocked, daemon=True)
        caller.start()
        until(lambda: pool.stats().blocked > 0)
        closer = threading.Thread(target=pool.close, daemon=True)
        closer.start()
        caller.join(WAIT_S)
        assert len(refused) == 1, "who waits for room is told at once"
        with pytest.raises(PoolClosed, match="is closing"):
            pool.submit(score())
        assert not first.done()
        hold.release()
        closer.join(WAIT_S)
        assert first.result(0)
        assert second.result(0), "what was queued is finished"


def test_closing_is_idempotent_from_many_threads_and_from_a_done_callback() -> None:
    pool = InferencePool()
    pool.register("m", ScriptedReplica().factory)
    done = threading.Event()
    with pool:
        pool.submit(score()).add_done_callback(lambda _: (pool.close(), done.set()))
        assert done.wait(WAIT_S)
        closers = [threading.Thread(target=pool.close, daemon=True) for _ in range(4)]
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join(WAIT_S)
            assert not closer.is_alive()
    pool.close()
    assert pool.stats().phase == "closed"


def test_a_done_callback_that_closes_does_not_hold_up_the_closing(caplog: pytest.LogCaptureFixture) -> None:
    hold = Hold()
    pool = InferencePool()
    pool.register("m", ScriptedReplica(on_call=hold).factory)
    pool.open()
    future = pool.submit(score())
    future.add_done_callback(lambda _: pool.close())
    assert hold.entered.wait(WAIT_S)
    closer = threading.Thread(target=pool.close, daemon=True)
    closer.start()
    until(lambda: pool.stats().phase != "open")
    hold.release()
    closer.join(WAIT_S)
    assert not closer.is_alive()
    assert future.result(0)
    assert "still inside" not in caplog.text, "the pool's thread did not wait for its own end"


def test_a_done_callback_that_the_closing_runs_does_not_make_it_wait_for_itself() -> None:
    hold = Hold()
    pool = InferencePool(replicas=1, max_batch=1, drain_s=0.0)
    pool.register("m", ScriptedReplica(on_call=hold).factory)
    pool.open()
    pool.submit(score(1))
    assert hold.entered.wait(WAIT_S)
    queued = pool.submit(score(2))
    in_threads: list[threading.Thread] = []
    returned = threading.Event()

    def close_again(_: object) -> None:
        in_threads.append(threading.current_thread())
        pool.close()
        returned.set()

    queued.add_done_callback(close_again)
    closer = threading.Thread(target=pool.close, daemon=True)
    closer.start()
    assert returned.wait(WAIT_S)
    hold.release()
    closer.join(WAIT_S)
    assert not closer.is_alive()
    assert in_threads == [closer]
    assert isinstance(queued.exception(0), PoolClosed)


def test_an_interrupt_while_threads_are_joined_leaves_later_closers_and_the_exit_nothing_to_wait_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(timeout_s: float) -> bool:
        raise KeyboardInterrupt

    pool = InferencePool(replicas=1)
    pool.register("m", ScriptedReplica().factory)
    pool.open()
    monkeypatch.setattr(pool._engine, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pool.close()
    later = threading.Thread(target=pool.close, daemon=True)
    later.start()
    later.join(WAIT_S)
    assert not later.is_alive()
    assert pool not in lifecycle_room._open_pools
    assert pool.stats().phase == "closed"


def test_leaving_because_of_an_interrupt_does_not_drain() -> None:
    hold = Hold()
    pool = InferencePool(max_batch=1, drain_s=60.0)
    pool.register("m", ScriptedReplica(on_call=hold).factory)
    futures = []

    def interrupted() -> None:
        with pool:
            futures.extend(pool.submit(score(ident)) for ident in range(3))
            assert hold.entered.wait(WAIT_S)
            futures[0].add_done_callback(lambda _: hold.release())  # closing fails them before it joins the threads
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [type(future.exception(0)) for future in futures] == [PoolClosed] * 3


async def test_aclose_does_not_block_the_loop_and_survives_cancellation() -> None:
    hold = Hold()
    pool = InferencePool()
    pool.register("m", ScriptedReplica(on_call=hold).factory)
    pool.open()
    future = pool.submit(score())
    await asyncio.to_thread(hold.entered.wait, WAIT_S)
    closing = asyncio.ensure_future(pool.aclose())
    await auntil(lambda: pool.stats().phase != "open")
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    hold.release()
    await pool.aclose()
    assert pool.stats().phase == "closed"
    assert future.result(0), "the drain went on"


def test_a_stuck_replica_does_not_keep_close_from_returning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle_room, "_JOIN_S", 0.1)
    hold = Hold()
    pool = InferencePool(drain_s=0.0)
    pool.register("m", ScriptedReplica(on_call=hold).factory)
    with pool:
        future = pool.submit(score())
        assert hold.entered.wait(WAIT_S)
    assert isinstance(future.exception(0), PoolClosed)
    assert "still inside its replica" in caplog.text
    hold.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_is_told_to_make_its_own_pool() -> None:
    shared = default_pool()
    shared.register("m", ScriptedReplica().factory)
    with InferencePool() as pool:
        pool.register("m", ScriptedReplica().factory)
        pool.submit(score()).result(WAIT_S)
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork in a process with threads
            child = os.fork()
        if child == 0:  # no assert and no pytest in here: report through the pipe and leave
            shown = []
            for act in (lambda: pool.submit(score()), pool.stats, lambda: next(pool.stream(_decode())), _fresh_default):
                try:
                    shown.append(str(act()))
                except BaseException as error:  # noqa: PERF203 - each is shown
                    shown.append(f"{type(error).__name__}: {error}")
            pool.close()  # must return, though its threads and perhaps its lock are not there
            os.write(writer, "\n".join(shown).encode())
            os._exit(0)
        os.close(writer)
        told, _, _ = select.select([reader], [], [], 3 * WAIT_S)  # it writes all at once, or ends
        if not told:
            os.kill(child, signal.SIGKILL)
        with os.fdopen(reader) as lines:
            shown = lines.read().splitlines()
        assert os.waitpid(child, 0)[1] == 0
        assert len(shown) == 4
        assert all(line.startswith("PoolClosed: this pool belongs to process") for line in shown[:3])
        assert shown[3] == "fresh"
        assert pool.submit(score()).result(WAIT_S), "the parent's pool goes on"


def _decode() -> GenerateRequest:
    return GenerateRequest("m", (1,), max_new_tokens=1)


def _fresh_default() -> str:
    pool = default_pool()
    pool.register("m", ScriptedReplica().factory)
    pool.submit(score()).result(WAIT_S)
    return "fresh"


def test_the_default_pool_is_one_for_all_threads_until_it_is_closed() -> None:
    seen: list[InferencePool] = []
    threads = [threading.Thread(target=lambda: seen.append(default_pool()), daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert len({id(pool) for pool in seen}) == 1
    seen[0].close()
    again = default_pool()
    assert again is not seen[0]
    again.register("m", ScriptedReplica().factory)
    assert again.submit(score()).result(WAIT_S)
    again.close()


@pytest.mark.parametrize("busy", ["idle", "hung"])
def test_the_interpreter_exits_although_nobody_closed_the_pool(busy: str) -> None:
    code = f"""
import threading
from guardrail_plugin.pool import ScoreRequest, default_pool
from guardrail_plugin.testing.replicas import ScriptedReplica, Hold
hold = Hold()
replica = ScriptedReplica(on_call=hold)
pool = default_pool()
pool.register("m", replica.factory)
future = pool.submit(ScoreRequest("m", (1,), (2,)))
assert hold.entered.wait(60)
if {busy!r} == "idle":
    hold.release()
    future.result(60)
print("leaving")
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert shown.stdout.strip() == "leaving"
    assert "Traceback" not in shown.stderr


def test_no_waiter_is_left_when_closing_races_with_submitting() -> None:
    for _ in range(20):
        pool = InferencePool(max_batch=3, drain_s=5.0)
        pool.register("m", ScriptedReplica().factory)
        futures = []
        with pool:
            closer = threading.Thread(target=pool.close, daemon=True)
            for ident in range(50):
                if ident == 10:
                    closer.start()
                try:
                    futures.append(pool.submit(score(ident)))
                except PoolClosed:
                    break
            closer.join(WAIT_S)
        assert not wait(futures, WAIT_S).not_done
        assert all(future.exception(0) is None for future in futures), "all that was admitted was drained"
