"""A replica that stands for another pool is told on whose account each request runs, and until when."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest

from guardrail_plugin.core.errors import GuardianTimeout
from guardrail_plugin.pool import (
    Account,
    Decode,
    GenerateRequest,
    InferencePool,
    RelayReplica,
    ScoreRequest,
    ScoreResult,
    on_behalf_of,
)
from guardrail_plugin.testing import ScriptedReplica

HELD = (7,)


class Relay(ScriptedReplica):
    """Notes accounts; a batch with ``HELD`` in it waits until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[tuple[int, ...], Account] = {}
        self.held, self.go_on = threading.Event(), threading.Event()
        self.failure: Exception | None = None

    def score_for(self, batch: Sequence[ScoreRequest], accounts: Sequence[Account]) -> list[ScoreResult]:
        self.told.update(zip((request.input_ids for request in batch), accounts, strict=True))
        if any(request.input_ids == HELD for request in batch):
            self.held.set()
            assert self.go_on.wait(30)
        if self.failure is not None:
            raise self.failure
        return [ScoreResult((0.0,)) for _ in batch]

    def start_for(self, batch: Sequence[GenerateRequest], accounts: Sequence[Account]) -> Decode:
        self.told.update(zip((request.input_ids for request in batch), accounts, strict=True))
        return self.start(batch)


@pytest.fixture
def relay() -> Relay:
    return Relay()


@pytest.fixture
def pool(relay: Relay) -> Iterator[InferencePool]:
    with InferencePool(devices=["cpu"], replicas=1) as pool:
        pool.register("m", lambda device: relay)
        yield pool


def ask(*ids: int) -> ScoreRequest:
    return ScoreRequest("m", ids, (3,))


def test_only_a_replica_that_wants_to_know_is_told(relay: Relay) -> None:
    assert isinstance(relay, RelayReplica)
    assert not isinstance(ScriptedReplica(), RelayReplica)


def test_tenant_and_what_is_left_travel_with_each_request(pool: InferencePool, relay: Relay) -> None:
    pool.submit(ask(1), tenant="a", timeout_s=20.0).result(30)
    with on_behalf_of("b"):
        pool.submit(ask(2)).result(30)
    pool.generate(GenerateRequest("m", (3, 4), max_new_tokens=2), tenant="c", timeout_s=40.0)
    left = relay.told[1,].timeout_s
    assert left is not None
    assert 0 < left <= 20
    assert relay.told[1,].tenant == "a"
    assert relay.told[2,] == Account("b", None)
    assert relay.told[3, 4].tenant == "c"
    assert 20 < (relay.told[3, 4].timeout_s or 0) <= 40


@pytest.mark.parametrize(("other", "least", "most"), [(40.0, 20.0, 40.0), (None, None, None)])
def test_equal_requests_are_asked_for_as_long_as_the_most_patient_waits(
    pool: InferencePool, relay: Relay, other: float | None, least: float | None, most: float | None
) -> None:
    first = pool.submit(ask(*HELD))
    assert relay.held.wait(30)
    equal = [pool.submit(ask(5), timeout_s=timeout_s) for timeout_s in (20.0, other)]
    relay.go_on.set()
    assert [future.result(30) for future in (first, *equal)]
    told = relay.told[5,].timeout_s
    if least is None or most is None:
        assert told is None
    else:
        assert told is not None
        assert least < told <= most


def test_a_timeout_behind_is_told_as_this_pools_own(pool: InferencePool, relay: Relay) -> None:
    relay.failure = GuardianTimeout(0.2)
    error = pool.submit(ask(1), timeout_s=20.0).exception(30)
    assert isinstance(error, GuardianTimeout)
    assert error.timeout_s == 20.0
    without = pool.submit(ask(2)).exception(30)
    assert isinstance(without, GuardianTimeout)
    assert without.timeout_s == 0.2
