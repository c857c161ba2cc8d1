"""Generation on the pool: step-wise, verdicts in between, rows that end, fail and move apart."""

from __future__ import annotations

import asyncio
import threading

import pytest

from guardrail_plugin.core.errors import InferenceError, PoolOverloaded
from guardrail_plugin.pool import GenerateRequest, Generation, InferencePool, RowFailed, ScoreRequest
from guardrail_plugin.testing.replicas import Call, Hold, OutOfMemoryError, ScriptedReplica

WAIT_S = 20.0
ENDLESS = 1_000_000  # max_new_tokens of a row that is not meant to end by itself


def generate(ident: int = 1, *, most: int = 5, stop: frozenset[int] = frozenset()) -> GenerateRequest:
    return GenerateRequest("m", (ident,), max_new_tokens=most, stop_ids=stop)


def score(ident: int = 1) -> ScoreRequest:
    return ScoreRequest("m", (ident,), (1, 2))


def count_on(request: GenerateRequest) -> range:
    """Tokens that go on from the last input id, so that a resumed row shows."""
    return range(request.input_ids[-1] + 1, request.input_ids[-1] + 1000)


def short_script(request: GenerateRequest) -> list[int]:
    return [7, 8, 9]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (generate(most=2), Generation((7, 8), "length")),
        (generate(most=3), Generation((7, 8, 9), "length")),
        (generate(most=9), Generation((7, 8, 9), "stop")),
        (generate(most=9, stop=frozenset({9})), Generation((7, 8), "stop")),
        (generate(most=9, stop=frozenset({7})), Generation((), "stop")),
    ],
)
async def test_sync_async_future_and_stream_agree(request_: GenerateRequest, expected: Generation) -> None:
    async with InferencePool() as pool:
        pool.register("m", ScriptedReplica(tokens=short_script).factory)
        assert await asyncio.to_thread(pool.generate, request_) == expected
        assert await pool.agenerate(request_) == expected
        assert await asyncio.wrap_future(pool.submit(request_)) == expected
        assert pool.submit_many([request_])[0].result(WAIT_S) == expected
        assert tuple(pool.stream(request_)) == expected.token_ids
        assert tuple([token_id async for token_id in pool.astream(request_)]) == expected.token_ids


def test_a_row_that_fails_alone_leaves_the_others_where_they_are() -> None:
    busy = [RowFailed(0, PoolOverloaded("this tenant's part of the queue is full", retry_after_s=1.0))]
    steps: list[int] = []

    def on_call(call: Call) -> None:
        if call.kind == "step":
            steps.append(call.rows)
            if len(steps) == 2 and busy:
                raise busy.pop()

    replica = ScriptedReplica(tokens=count_on, on_call=on_call)
    with InferencePool(replicas=1) as pool:
        pool.register("m", replica.factory)
        refused, whole = pool.submit_many([generate(10, most=4), generate(20, most=4)])
        assert whole.result(WAIT_S).token_ids == (21, 22, 23, 24)
        assert isinstance(refused.exception(WAIT_S), PoolOverloaded)
    assert [call.kind for call in replica.calls].count("start") == 1


def test_rows_of_one_decode_end_apart() -> None:
    hold = Hold("start")
    replica = ScriptedReplica(tokens=count_on, on_call=hold)
    with InferencePool() as pool:
        pool.register("m", replica.factory)
        pool.submit(generate(0, most=1))
        assert hold.entered.wait(WAIT_S)
        futures = pool.submit_many([generate(10, most=1), generate(20, most=4), generate(30, most=2)])
        hold.release()
        assert [future.result(WAIT_S).token_ids for future in futures] == [(11,), (21, 22, 23, 24), (31, 32)]
    assert [call.rows for call in replica.calls if call.kind == "start"] == [1, 3]


def test_verdicts_go_between_steps_and_decoding_keeps_its_share() -> None:
    """A flood of verdicts during a decode: at most ``max_score_streak`` of their batches between two steps."""
    most = 6
    flood = 60
    started = threading.Event()
    flooded = threading.Event()

    def hold_first_step(call: Call) -> None:
        if call.kind == "step" and not started.is_set():
            started.set()
            assert flooded.wait(WAIT_S)

    replica = ScriptedReplica(on_call=hold_first_step)
    with InferencePool(max_batch=1, max_score_streak=3) as pool:
        pool.register("m", replica.factory)
        decode = pool.submit(generate(most=most))
        assert started.wait(WAIT_S)
        verdicts = pool.submit_many([score(ident) for ident in range(flood)])
        flooded.set()
        assert decode.result(WAIT_S).token_ids == tuple(range(most))
        assert all(future.result(WAIT_S) for future in verdicts)
    kinds = "".join(call.kind[1] for call in replica.calls if call.kind in ("score", "step"))
    between = kinds[: kinds.rindex("t") + 1].split("t")  # "score" shows as c, "step" as t
    assert between == ["", *(["ccc"] * (most - 1)), ""]


def test_several_decodes_take_turns_and_are_bounded() -> None:
    replica = ScriptedReplica(tokens=count_on)
    with InferencePool(max_batch=1, max_decodes=2) as pool:
        pool.register("m", replica.factory)
        futures = [pool.submit(generate(ident, most=3)) for ident in (10, 20, 30, 40, 50)]
        assert [future.result(WAIT_S).token_ids[0] for future in futures] == [11, 21, 31, 41, 51]
    with InferencePool(max_batch=3, max_decodes=2) as pool:
        hold = Hold("step")
        replica = ScriptedReplica(tokens=count_on, on_call=hold)
        pool.register("m", replica.factory)
        futures = [pool.submit(generate(10, most=2))]
        assert hold.entered.wait(WAIT_S)
        futures += [pool.submit(generate(ident, most=2)) for ident in (20, 30, 40, 50)]
        hold.release()
        assert [future.result(WAIT_S).token_ids for future in futures] == [
            (ident + 1, ident + 2) for ident in (10, 20, 30, 40, 50)
        ]
    rows = [call.rows for call in replica.calls if call.kind == "start"]
    assert rows[:2] == [1, 2], "three rows at once are the bound"


def test_decodes_are_stepped_in_turn() -> None:
    hold = Hold("step")
    replica = ScriptedReplica(tokens=count_on, on_call=hold)
    with InferencePool() as pool:
        pool.register("m", replica.factory)
        futures = [pool.submit(generate(10, most=3))]
        assert hold.entered.wait(WAIT_S)
        futures.append(pool.submit(generate(20, most=3)))
        hold.release()
        assert [future.result(WAIT_S).token_ids for future in futures] == [(11, 12, 13), (21, 22, 23)]
    steps = [call.requests[0].input_ids[0] for call in replica.calls if call.kind == "step"]
    assert steps in ([10, 10, 20, 10, 20, 20], [10, 20, 10, 20, 10, 20])


def test_a_replica_that_dies_scoring_takes_its_decodes_along_to_the_next() -> None:
    hold = Hold("step")
    deaths = [SystemExit()]

    def dies_scoring(call: Call) -> None:
        hold(call)
        if call.kind == "score" and deaths:
            raise deaths.pop()

    replica = ScriptedReplica(tokens=count_on, on_call=dies_scoring)
    with InferencePool() as pool:
        pool.register("m", replica.factory)
        decode = pool.submit(generate(10, most=6))
        assert hold.entered.wait(WAIT_S)
        verdict = pool.submit(score())
        hold.release()
        assert verdict.result(WAIT_S)
        assert decode.result(WAIT_S).token_ids == (11, 12, 13, 14, 15, 16)
        assert pool.stats().replica_restarts == 1
    starts = [call.requests[0].input_ids for call in replica.calls if call.kind == "start"]
    assert starts == [(10,), (10, 11)], "on the new replica, from where it was"


@pytest.mark.parametrize("kind", ["start", "step"])
def test_a_poison_row_fails_alone(kind: str) -> None:
    hold = Hold("score")

    def fails(call: Call) -> None:
        hold(call)
        if call.kind == kind and any(request.input_ids[0] == 20 for request in call.requests):
            raise ValueError("bad row")

    replica = ScriptedReplica(tokens=count_on, on_call=fails)
    with InferencePool() as pool:
        pool.register("m", replica.factory)
        pool.submit(score())
        assert hold.entered.wait(WAIT_S)
        futures = pool.submit_many([generate(10), generate(20), generate(30)])
        hold.release()
        assert futures[0].result(WAIT_S).token_ids == (11, 12, 13, 14, 15)
        assert isinstance(futures[1].exception(WAIT_S), InferenceError)
        assert futures[2].result(WAIT_S).token_ids == (31, 32, 33, 34, 35)


def test_memory_that_runs_out_during_a_decode_splits_it_and_rows_go_on_where_they_were() -> None:
    hold = Hold("score")

    def grows(call: Call) -> None:
        hold(call)
        if call.kind == "step" and call.rows > 2 and replica.count("step") > 2:
            raise OutOfMemoryError("the cache has grown")

    replica = ScriptedReplica(tokens=count_on, on_call=grows)
    with InferencePool() as pool:
        pool.register("m", replica.factory)
        pool.submit(score())
        assert hold.entered.wait(WAIT_S)
        futures = pool.submit_many([generate(ident) for ident in (10, 20, 30)])
        hold.release()
        assert [f.result(WAIT_S).token_ids for f in futures] == [tuple(range(i + 1, i + 6)) for i in (10, 20, 30)]
        assert pool.stats().oom_splits == 1
        assert pool.stats().slots[0].decoding_rows == 0


def test_a_replica_that_never_ends_its_rows_is_stopped_and_one_that_ends_too_soon_is_an_error() -> None:
    class Endless(ScriptedReplica):
        def start(self, batch: object) -> Endless.Decode:
            return self.Decode()

        class Decode:
            def step(self) -> list[object]:
                from guardrail_plugin.pool import Token

                return [Token(0, 5)]

            def cancel(self, row: int) -> None:
                assert row == 0

            def close(self) -> None: ...

    class Mute(Endless):
        class Decode(Endless.Decode):
            def step(self) -> list[object]:
                return []

    with InferencePool() as pool:
        pool.register("m", Endless().factory)  # type: ignore[arg-type]
        assert pool.generate(generate(most=3)) == Generation((5, 5, 5), "length")
        pool.register("mute", Mute().factory)  # type: ignore[arg-type]
        with pytest.raises(InferenceError):
            pool.generate(GenerateRequest("mute", (1,), max_new_tokens=3))
