"""Where replicas live: slots added when a factory knows the machine, models that make room for each other."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import count

import pytest

from guardrail_plugin.core.errors import ReplicaDead
from guardrail_plugin.pool import GenerateRequest, InferencePool, Replica, ScoreRequest
from guardrail_plugin.testing import ScriptedReplica
from guardrail_plugin.testing.replicas import Call, Hold, OutOfMemoryError

WAIT_S = 30.0
MB = 1 << 20


_numbers = count()


def score(model: str = "m") -> ScoreRequest:
    return ScoreRequest(model, (1, 2, next(_numbers)), (7, 8))  # each another text: equal ones are answered together


class Sized(ScriptedReplica):
    """A replica that tells what it takes and how it works best."""

    def __init__(self, mb: int, *, batch_tokens: int = 0) -> None:
        super().__init__()
        self.nbytes = mb * MB
        self.batch_tokens = batch_tokens


class Placed:
    """A factory for a machine with these devices; notes what it builds where."""

    def __init__(self, *devices: str, replica: ScriptedReplica | None = None) -> None:
        self.replica = replica or ScriptedReplica()
        self.built: list[str] = []
        self._devices = devices

    def __call__(self, device: str) -> Replica:
        self.built.append(device)
        return self.replica

    def places(self, device: str) -> Sequence[str]:
        return self._devices if device == "auto" else [device]


def devices(pool: InferencePool) -> list[str]:
    return [slot.device for slot in pool.stats().slots]


def test_a_pool_grows_to_the_devices_that_the_first_factory_names() -> None:
    together = threading.Barrier(3)  # nobody is answered before every device is busy

    def on_call(call: Call) -> None:
        if call.kind == "score":
            together.wait(WAIT_S)

    factory = Placed("gpu:0", "gpu:1", "gpu:2", replica=ScriptedReplica(on_call=on_call))
    with InferencePool(max_batch=1) as pool:
        pool.register("m", factory)
        assert devices(pool) == ["auto"]
        futures = [pool.submit(score()) for _ in range(6)]
        assert all(future.result(WAIT_S) for future in futures)
        assert devices(pool) == ["gpu:0", "gpu:1", "gpu:2"]
        assert sorted(factory.built) == ["auto", "gpu:1", "gpu:2"]
        assert len({call.thread for call in factory.replica.calls if call.kind == "score"}) == 3
        pool.register("other", Placed("gpu:0", "gpu:1", "gpu:2", "gpu:3"))  # its replica waits for nobody
        assert pool.submit(score("other")).result(WAIT_S)
        assert len(devices(pool)) == 3  # it grows once


@pytest.mark.parametrize(("named", "replicas"), [(None, 1), (["gpu:0"], None), (["gpu:0", "gpu:1"], 2)])
def test_a_caller_who_says_where_or_how_many_is_obeyed(named: list[str] | None, replicas: int | None) -> None:
    with InferencePool(devices=named, replicas=replicas) as pool:
        pool.register("m", Placed("gpu:0", "gpu:1", "gpu:2"))
        assert pool.submit(score()).result(WAIT_S)
        assert len(devices(pool)) == len(named or ["auto"]) * (replicas or 1)


def test_a_replica_that_is_killed_is_replaced_while_the_others_serve() -> None:
    deadly = ScoreRequest("m", (66,), (7, 8))
    blocked, blow = threading.Event(), threading.Event()

    def on_call(call: Call) -> None:
        if deadly in call.requests and not blow.is_set():
            blocked.set()
            assert blow.wait(WAIT_S)
            raise ReplicaDead("killed")

    factory = Placed("cpu", "cpu", "cpu", replica=ScriptedReplica(on_call=on_call))
    with InferencePool(max_batch=1) as pool:
        pool.register("m", factory)
        assert pool.submit(score()).result(WAIT_S)
        victim = pool.submit(deadly)
        assert blocked.wait(WAIT_S)
        assert all(future.result(WAIT_S) for future in [pool.submit(score()) for _ in range(20)])  # meanwhile
        assert not victim.done()
        blow.set()
        assert victim.result(WAIT_S)  # on another replica, or on the new one
        assert pool.stats().replica_restarts == 1
        assert all(future.result(WAIT_S) for future in [pool.submit(score()) for _ in range(20)])
        assert (pool.stats().failed, pool.stats().completed) == (0, 42)


def test_models_share_a_device_under_a_memory_bound() -> None:
    replicas = {name: Sized(mb) for name, mb in [("guardian", 4), ("chat", 5), ("other", 3)]}
    with InferencePool(max_model_mb=10) as pool:
        for name, replica in replicas.items():
            pool.register(name, replica.factory)

        def living(*asked: str) -> tuple[str, ...]:
            for name in asked:
                pool.submit(score(name)).result(WAIT_S)
            pool.submit(score(asked[-1])).result(WAIT_S)  # the turn after: what must leave has left by now
            return tuple(sorted(pool.stats().slots[0].models))

        assert living("guardian", "chat") == ("chat", "guardian")
        assert living("guardian", "other") == ("guardian", "other")  # chat was used longest ago
        assert living("chat") == ("chat", "other")
        assert replicas["chat"].count("build") == 2
        assert pool.stats().failed == 0


def test_a_model_that_is_decoding_leaves_when_it_is_done() -> None:
    hold = Hold("step")
    chat, guardian = Sized(8), Sized(8)
    chat._on_call = hold
    with InferencePool(max_model_mb=10) as pool:
        pool.register("chat", chat.factory)
        pool.register("guardian", guardian.factory)
        answer = pool.submit(GenerateRequest("chat", (1, 2), max_new_tokens=3))
        assert hold.entered.wait(WAIT_S)
        verdict = pool.submit(score("guardian"))
        hold.release()
        assert answer.result(WAIT_S).token_ids == (0, 1, 2)
        assert verdict.result(WAIT_S)
        assert pool.submit(score("guardian")).result(WAIT_S)
        assert pool.stats().slots[0].models == ("guardian",)
        assert chat.count("close") == 1


def test_a_model_that_does_not_fit_takes_the_room_of_idle_ones() -> None:
    small = ScriptedReplica()
    large = ScriptedReplica()

    def build(device: str) -> Replica:
        if small.count("close") == 0:
            raise OutOfMemoryError("no room")
        return large

    with InferencePool() as pool:
        pool.register("small", small.factory)
        pool.register("large", build)
        assert pool.submit(score("small")).result(WAIT_S)
        assert pool.submit(score("large")).result(WAIT_S)
        assert pool.submit(score("small")).result(WAIT_S)  # built anew
        assert small.count("build") == 2


@pytest.mark.parametrize(("asked", "rows"), [(None, [1, 10]), (9, [1, 3, 3, 3, 1])])
def test_a_replicas_own_batch_size_is_used_where_the_caller_names_none(asked: int | None, rows: list[int]) -> None:
    replica = Sized(1, batch_tokens=30)
    hold = Hold()
    with InferencePool(max_batch_tokens=asked) as pool:
        pool.register("m", replica.factory)
        first = pool.submit(score())
        first.result(WAIT_S)
        replica._on_call = hold
        futures = [pool.submit(score())]
        assert hold.entered.wait(WAIT_S)
        futures += pool.submit_many([score() for _ in range(10)])
        hold.release()
        assert all(future.result(WAIT_S) for future in futures)
        assert [call.rows for call in replica.calls if call.kind == "score"][1:] == rows
