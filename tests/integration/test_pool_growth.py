"""What a pool does when it cannot have all that it wants: memory for two models, threads for all devices."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from guardrail_plugin.core.errors import ConfigError, ReplicaDead
from guardrail_plugin.pool import InferencePool, Replica
from guardrail_plugin.pool import worker as worker_room
from guardrail_plugin.testing import ScriptedReplica
from guardrail_plugin.testing.replicas import Call, Hold

from .held_pool import WAIT_S, score


class Large(ScriptedReplica):
    """A replica that takes 8 MB."""

    nbytes = 8 << 20


def test_a_model_in_its_first_batch_leaves_for_one_that_is_built_meanwhile() -> None:
    hold, left = Hold(), threading.Event()

    def on_call(call: Call) -> None:
        hold(call)
        if call.kind == "close":
            left.set()

    early, late = Large(on_call=on_call), Large()
    with InferencePool(replicas=2, max_model_mb=10) as pool:
        pool.register("early", early.factory)
        pool.register("late", late.factory)
        first = pool.submit(score(1, model="early"))
        assert hold.entered.wait(WAIT_S)
        assert pool.submit(score(2, model="late")).result(WAIT_S)
        hold.release()
        assert first.result(WAIT_S)
        assert left.wait(WAIT_S), "both stay, 16 MB under a bound of 10"
        assert late.count("close") == 0


# -- no thread for a new slot


class Placed:
    """A factory for a machine with three devices."""

    def __call__(self, device: str) -> Replica:
        return ScriptedReplica()

    def places(self, device: str) -> Sequence[str]:
        return ["gpu:0", "gpu:1", "gpu:2"]


@pytest.fixture
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system gives threads to the first slot only."""
    start = threading.Thread.start

    def start_or_not(thread: threading.Thread) -> None:
        if thread.name in ("guardrail-pool-1", "guardrail-pool-2"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_not)


def grown(pool: InferencePool) -> None:
    pool.register("m", Placed())
    assert pool.submit(score(0)).result(WAIT_S)


@pytest.mark.usefixtures("one_worker")
def test_a_slot_that_gets_no_thread_is_retired_and_the_others_go_on() -> None:
    with InferencePool() as pool:
        grown(pool)
        first, *others = pool.stats().slots
        assert [slot.phase for slot in others] == ["retired", "retired"]
        assert first.restarts == 0, "it does not die of it"
        assert pool.submit(score(1)).result(WAIT_S)


@pytest.mark.usefixtures("one_worker")
def test_when_the_only_slot_with_a_thread_is_given_up_everybody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def buggy(*args: object, **kwargs: object) -> object:
        raise SystemExit

    with InferencePool(max_attempts=2) as pool:
        grown(pool)
        monkeypatch.setattr(worker_room, "score_batch", buggy)
        outcomes = []
        for ident in range(1, 6):
            try:
                outcomes.append(pool.submit(score(ident)).exception(WAIT_S))
            except ReplicaDead as error:  # noqa: PERF203 - nobody is left to queue it for
                outcomes.append(error)
        assert [type(outcome) for outcome in outcomes] == [ReplicaDead] * 5
        assert str(outcomes[-1]) == "no worker thread of this pool could be kept alive"


@pytest.mark.usefixtures("one_worker")
def test_when_the_only_slot_with_a_thread_cannot_build_a_model_everybody_is_told() -> None:
    def build(device: str) -> Replica:
        raise ConfigError("no weights")

    with InferencePool() as pool:
        grown(pool)
        pool.register("broken", build)
        error = pool.submit(score(1, model="broken")).exception(WAIT_S)
        assert isinstance(error, ReplicaDead)
        assert isinstance(error.__cause__, ConfigError)
