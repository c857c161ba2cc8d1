"""Equal requests and tenants under real threads: one run for all who ask the same, each with terms of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, wait

import pytest

from guardrail_plugin.core.errors import ConfigError, GuardianTimeout, InferenceError, PoolOverloaded, ReplicaDead
from guardrail_plugin.pool import GenerateRequest, InferencePool, Request, ScoreRequest, ScoreResult, on_behalf_of
from guardrail_plugin.testing.replicas import Hold, ScriptedReplica

from .held_pool import WAIT_S, auntil, until

Held = tuple[InferencePool, ScriptedReplica, Hold]


def score(ident: int) -> ScoreRequest:
    return ScoreRequest("m", (ident,), (1, 2))


def ident_of(future: Future[ScoreResult]) -> int:
    return int(future.result(WAIT_S).logprobs[0])


def batches(replica: ScriptedReplica) -> list[list[int]]:
    return [[r.input_ids[0] for r in call.requests] for call in replica.calls if call.kind == "score"]


@pytest.fixture
def held() -> Iterator[Held]:
    """A pool whose replica is busy with request 0 until the hold is released."""
    hold = Hold()
    replica = ScriptedReplica(logprobs=lambda r: [float(r.input_ids[0]), 0.0], on_call=hold)
    with InferencePool(drain_s=0.5) as pool:
        pool.register("m", replica.factory)
        pool.submit(score(0))
        assert hold.entered.wait(WAIT_S)
        yield pool, replica, hold
        hold.release()


def test_equal_requests_run_once_and_everybody_is_answered(held: Held) -> None:
    pool, replica, hold = held
    futures = [pool.submit(score(7)) for _ in range(5)] + [pool.submit(score(0))]
    stats = pool.stats()
    assert (stats.queued, stats.joined, stats.running, stats.coalesced) == (1, 5, 1, 5)
    hold.release()
    assert [ident_of(future) for future in futures] == [7] * 5 + [0]
    assert batches(replica) == [[0], [7]]
    assert pool.stats().completed == pool.stats().submitted == 7


def test_when_it_is_over_an_equal_request_runs_anew(held: Held) -> None:
    pool, replica, hold = held
    hold.release()
    for _ in range(2):
        assert ident_of(pool.submit(score(7))) == 7
    assert batches(replica)[-2:] == [[7], [7]]


@pytest.mark.parametrize("ident", [0, 7], ids=["running", "queued"])
def test_a_cancelled_caller_takes_the_answer_from_nobody(ident: int, held: Held) -> None:
    pool, replica, hold = held
    futures = [pool.submit(score(ident)) for _ in range(4)]
    assert futures[0].cancel()
    assert futures[2].cancel()
    hold.release()
    assert [ident_of(futures[at]) for at in (1, 3)] == [ident, ident]
    with pytest.raises(CancelledError):
        futures[0].result(0)
    assert sum(batch.count(ident) for batch in batches(replica)) == 1
    assert pool.stats().cancelled == 2


async def test_cancelled_tasks_leave_alone(held: Held) -> None:
    pool, _, hold = held
    tasks = [asyncio.create_task(pool.ascore_many([score(7), score(8)])) for _ in range(3)]
    await auntil(lambda: pool.stats().joined == 4)
    tasks[0].cancel()
    await asyncio.gather(tasks[0], return_exceptions=True)
    hold.release()
    for task in tasks[1:]:
        assert [o.logprobs[0] for o in await task if isinstance(o, ScoreResult)] == [7.0, 8.0]


@pytest.mark.parametrize("ident", [0, 7], ids=["running", "queued"])
def test_each_caller_has_a_deadline_of_its_own(ident: int, held: Held) -> None:
    pool, _, hold = held
    short = pool.submit(score(ident), timeout_s=0.05)
    patient = pool.submit(score(ident))
    strict = pool.submit(score(ident), timeout_s=0.05)
    for late in (short, strict):
        with pytest.raises(GuardianTimeout):
            late.result(WAIT_S)
    assert not patient.done()
    hold.release()
    assert ident_of(patient) == ident


def test_all_who_asked_the_same_hear_of_its_failure() -> None:
    hold = Hold()

    def bad(request: Request) -> BaseException | None:
        return ValueError("a bad one") if request.input_ids == (7,) else None

    replica = ScriptedReplica(on_call=hold, fail=bad)
    with InferencePool() as pool:
        pool.register("m", replica.factory)
        pool.submit(score(0))
        assert hold.entered.wait(WAIT_S)
        bad_ones, good = [pool.submit(score(7)) for _ in range(3)], pool.submit(score(8))
        hold.release()
        assert [type(future.exception(WAIT_S)) for future in bad_ones] == [InferenceError] * 3
        assert good.result(WAIT_S)


def test_a_request_that_kills_replicas_is_tried_as_often_as_one_for_all_who_sent_it() -> None:
    hold = Hold()
    replica = ScriptedReplica(on_call=hold, fail=lambda r: SystemExit() if r.input_ids == (7,) else None)
    with InferencePool(max_attempts=2) as pool:
        pool.register("m", replica.factory)
        pool.submit(score(0))
        assert hold.entered.wait(WAIT_S)
        futures = [pool.submit(score(7)) for _ in range(4)]
        hold.release()
        assert [type(future.exception(WAIT_S)) for future in futures] == [ReplicaDead] * 4
        assert sum(batch.count(7) for batch in batches(replica)) == 2


def test_decodes_and_pools_that_are_told_so_run_each_by_itself() -> None:
    replica = ScriptedReplica(logprobs=lambda r: [1.0, 0.0])
    with InferencePool(coalesce=False) as pool:
        pool.register("m", replica.factory)
        futures = pool.submit_many([score(1)] * 5)
        decodes = pool.submit_many([GenerateRequest("m", (1,), 3)] * 2)
        wait([*futures, *decodes], WAIT_S)
        assert pool.stats().coalesced == 0
        assert sum(map(len, batches(replica))) == 5


def test_a_flood_of_one_tenant_does_not_hold_up_another() -> None:
    hold = Hold()
    replica = ScriptedReplica(logprobs=lambda r: [float(r.input_ids[0]), 0.0], on_call=hold)
    with InferencePool(max_queued=40, max_batch=4, on_full="reject", drain_s=0.5) as pool:
        pool.register("m", replica.factory)
        pool.submit(score(0), tenant="flood")
        assert hold.entered.wait(WAIT_S)
        flood = pool.submit_many([score(100 + i) for i in range(30)], tenant="flood")
        with on_behalf_of("small"):
            small = [pool.submit(score(1 + i)) for i in range(4)]
        with pytest.raises(PoolOverloaded, match="this tenant's part"):
            pool.submit_many([score(200 + i) for i in range(6)], tenant="flood")
        hold.release()
        wait([*flood, *small], WAIT_S)
        order = [ident for batch in batches(replica)[1:4] for ident in batch]
        assert set(range(1, 5)) <= set(order), "within the next three batches of four"


def test_callers_of_a_flood_that_wait_for_room_let_others_by() -> None:
    hold = Hold()
    with InferencePool(max_queued=40, max_batch=4, on_full="wait", drain_s=0.5) as pool:
        pool.register("m", ScriptedReplica(on_call=hold).factory)
        pool.submit(score(0), tenant="small")
        assert hold.entered.wait(WAIT_S)
        pool.submit_many([score(100 + i) for i in range(30)], tenant="flood")
        blocked = threading.Thread(target=lambda: pool.submit(score(999), tenant="flood"), daemon=True)
        blocked.start()
        until(lambda: pool.stats().blocked == 1)
        pool.submit(score(1), tenant="small")  # would hang if it had to wait behind the flood
        assert pool.stats().blocked == 1
        hold.release()
        blocked.join(WAIT_S)
        assert not blocked.is_alive()


def test_a_stream_runs_on_the_account_of_who_asked_for_it() -> None:
    with InferencePool() as pool:
        pool.register("m", ScriptedReplica().factory)
        with on_behalf_of("a"):
            stream = pool.stream(GenerateRequest("m", (1,), 2))
        assert list(stream) == [0, 1]
        assert pool.stats().tenants == 1
        pool.submit(score(1)).result(WAIT_S)
        assert pool.stats().tenants == 2, "outside the block it is another account"


def test_a_tenant_is_a_string_and_is_not_shown() -> None:
    with pytest.raises(ConfigError, match="int"), on_behalf_of(5):  # type: ignore[arg-type]
        pass
