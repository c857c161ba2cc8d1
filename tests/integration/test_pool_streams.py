"""Streams of the pool: what stops them, and that nothing is left behind when nobody reads them."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable

import pytest

from guardrail_plugin.core.errors import GuardianTimeout, InferenceError, PoolClosed, PoolOverloaded
from guardrail_plugin.pool import GenerateRequest, InferencePool, ScoreRequest
from guardrail_plugin.testing.replicas import Call, Hold, ScriptedReplica

WAIT_S = 20.0
ENDLESS = 1_000_000  # max_new_tokens of a row that is not meant to end by itself


def generate(ident: int = 1, *, most: int = 5, stop: frozenset[int] = frozenset()) -> GenerateRequest:
    return GenerateRequest("m", (ident,), max_new_tokens=most, stop_ids=stop)


def score(ident: int = 1) -> ScoreRequest:
    return ScoreRequest("m", (ident,), (1, 2))


class Endless:
    """Tokens without end: after a few the replica waits in a step until the test says that the reader has left.

    Attributes:
        stepped: set when the first step has come.
        left: set by the test.
    """

    def __init__(self) -> None:
        self.stepped, self.left = threading.Event(), threading.Event()
        self.replica = ScriptedReplica(tokens=lambda request: range(20_000), on_call=self._met)

    def _met(self, call: Call) -> None:
        if call.kind == "step":
            self.stepped.set()
            if self.replica.count("step") > 6 and not self.left.wait(WAIT_S):
                raise TimeoutError("nobody said that the reader has left")


def steps_until_idle(pool: InferencePool, replica: ScriptedReplica) -> None:
    """A verdict behind an abandoned stream proves that the slot goes on; then the decode must be gone."""
    for _ in range(10):
        pool.submit(score()).result(WAIT_S)
        if pool.stats().running == 0 and pool.stats().slots[0].decoding_rows == 0:
            break
    stats = pool.stats()
    assert stats.running == stats.queued == stats.slots[0].decoding_rows == 0
    steps = replica.count("step")
    pool.submit(score()).result(WAIT_S)
    assert replica.count("step") == steps


def leave_by_break(pool: InferencePool) -> None:
    for token_id in pool.stream(generate(most=ENDLESS)):
        if token_id > 3:
            break


def leave_by_close(pool: InferencePool) -> None:
    tokens = pool.stream(generate(most=ENDLESS))
    next(tokens)
    tokens.close()


def leave_by_error(pool: InferencePool) -> None:
    def read() -> None:
        for _ in pool.stream(generate(most=ENDLESS)):
            raise RuntimeError("the reader has had enough")

    with pytest.raises(RuntimeError, match="the reader"):
        read()
    gc.collect()


def leave_by_losing_it(pool: InferencePool) -> None:
    tokens = pool.stream(generate(most=ENDLESS))
    cycle: list[object] = [tokens]
    cycle.append(cycle)
    next(tokens)
    del tokens, cycle
    gc.collect()


@pytest.mark.parametrize("leave", [leave_by_break, leave_by_close, leave_by_error, leave_by_losing_it])
def test_a_stream_that_nobody_reads_is_stopped(leave: Callable[[InferencePool], None]) -> None:
    endless = Endless()
    with InferencePool(drain_s=0.5) as pool:
        pool.register("m", endless.replica.factory)
        leave(pool)
        endless.left.set()
        steps_until_idle(pool, endless.replica)
        assert pool.stats().cancelled == 1


@pytest.mark.parametrize("how", ["break", "aclose", "cancel", "agenerate"])
async def test_an_async_stream_that_nobody_reads_is_stopped(how: str) -> None:
    endless = Endless()
    async with InferencePool(drain_s=0.5) as pool:
        pool.register("m", endless.replica.factory)
        read = asyncio.Event()

        async def reader() -> None:
            if how == "agenerate":
                read.set()
                await pool.agenerate(generate(most=ENDLESS))
            tokens = pool.astream(generate(most=ENDLESS))
            async for token_id in tokens:
                if token_id > 2:
                    read.set()
                    if how != "cancel":
                        break
            if how == "aclose":
                await tokens.aclose()

        task = asyncio.ensure_future(reader())
        await read.wait()
        if how in ("cancel", "agenerate"):
            assert await asyncio.to_thread(endless.stepped.wait, WAIT_S)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        del task
        gc.collect()
        for _ in range(10):  # the loop closes abandoned generators in a task of its own
            await asyncio.sleep(0)
        endless.left.set()
        await asyncio.to_thread(steps_until_idle, pool, endless.replica)
        assert pool.stats().cancelled == 1


def test_a_stream_abandoned_while_queued_never_starts_and_frees_its_place() -> None:
    hold = Hold("score")
    replica = ScriptedReplica(on_call=hold)
    with InferencePool(max_queued=1) as pool:
        pool.register("m", replica.factory)
        pool.submit(score())
        assert hold.entered.wait(WAIT_S)

        async def give_up() -> None:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext_(pool.astream(generate())), 0.05)

        asyncio.run(give_up())
        assert pool.stats().queued == 0
        last = pool.submit(score(2))
        hold.release()
        last.result(WAIT_S)
        assert replica.count("start") == 0


async def anext_(tokens: object) -> object:
    return await tokens.__anext__()  # type: ignore[attr-defined]


def test_a_stream_is_queued_when_it_is_first_read() -> None:
    with InferencePool() as pool:
        pool.register("m", ScriptedReplica().factory)
        tokens = pool.stream(generate())
        assert pool.stats().submitted == 0
        assert list(tokens) == [0, 1, 2, 3, 4]
        unread = pool.stream(generate())
    with pytest.raises(PoolClosed):
        next(unread)


def test_a_stream_ends_with_the_error_of_its_decode() -> None:
    replica = ScriptedReplica(
        on_call=lambda call: (_ for _ in ()).throw(ValueError("x")) if replica.count("step") == 3 else None
    )
    with InferencePool() as pool:
        pool.register("m", replica.factory)
        tokens = pool.stream(generate())
        assert [next(tokens), next(tokens)] == [0, 1]
        with pytest.raises(InferenceError):
            next(tokens)


def test_a_deadline_stops_a_decode_in_progress() -> None:
    now = [0.0]

    def pass_time(call: Call) -> None:
        if call.kind == "step" and replica.count("step") % 6 == 0:
            now[0] += 1.0

    replica = ScriptedReplica(tokens=lambda request: range(20_000), on_call=pass_time)
    with InferencePool(clock=lambda: now[0]) as pool:
        pool.register("m", replica.factory)
        with pytest.raises(GuardianTimeout):
            list(pool.stream(generate(most=ENDLESS), timeout_s=0.05))
        with pytest.raises(GuardianTimeout):
            pool.generate(generate(most=ENDLESS), timeout_s=0.05)
        steps_until_idle(pool, replica)
        assert pool.stats().expired == 2


async def test_a_loop_that_closes_mid_stream_stops_its_decode() -> None:
    endless = Endless()
    with InferencePool(drain_s=0.5) as pool:
        pool.register("m", endless.replica.factory)

        def one_loop() -> None:
            async def read_one() -> None:
                async for _ in pool.astream(generate(most=ENDLESS)):
                    return

            asyncio.run(read_one())

        await asyncio.to_thread(one_loop)
        endless.left.set()
        await asyncio.to_thread(steps_until_idle, pool, endless.replica)


def test_streams_feel_the_bounds_too() -> None:
    hold = Hold("score")
    with InferencePool(max_queued=1) as pool:
        pool.register("m", ScriptedReplica(on_call=hold).factory)
        pool.submit(score())
        assert hold.entered.wait(WAIT_S)
        pool.submit(score(2))
        with pytest.raises(PoolOverloaded):
            next(pool.stream(generate()))
        hold.release()
