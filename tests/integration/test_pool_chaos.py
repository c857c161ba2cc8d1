"""Everything at once, at random: whatever fails, each request is answered once, and the books balance."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, wait
from contextlib import suppress

import pytest

from guardrail_plugin.core.errors import GuardianTimeout, InferenceError, PoolClosed, PoolOverloaded, ReplicaDead
from guardrail_plugin.pool import GenerateRequest, Generation, InferencePool, ScoreRequest, ScoreResult
from guardrail_plugin.testing.replicas import Call, OutOfMemoryError, ScriptedReplica

WAIT_S = 30.0
PERMITTED = (CancelledError, GuardianTimeout, InferenceError, PoolClosed, PoolOverloaded, ReplicaDead)


@pytest.fixture(autouse=True)
def restless_threads() -> Iterator[None]:
    """Switch between threads as often as Python allows, so that races show."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Chaos:
    """Faults by dice, from one seed per replica call."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._lock = threading.Lock()
        self.replica = ScriptedReplica(logprobs=lambda r: [float(r.input_ids[0]), 0.0], on_call=self.strike)

    def strike(self, call: Call) -> None:
        with self._lock:
            roll = self._dice.random()
        if call.kind == "close":
            return
        if call.kind == "build":
            if roll < 0.2:
                raise OSError("no device today")
        elif roll < 0.02:
            raise SystemExit
        elif roll < 0.04:
            raise ReplicaDead("the device fell off the bus")
        elif roll < 0.08:
            raise ValueError("a passing fault")
        elif roll < 0.14 and call.rows > 1:
            raise OutOfMemoryError("too much at once")


@pytest.mark.parametrize("seed", range(6))
def test_whatever_fails_each_request_is_answered_once_and_rightly(seed: int) -> None:
    chaos = Chaos(seed)
    outcomes: list[tuple[int, Future[ScoreResult] | Future[Generation]]] = []
    rejected: list[Exception] = []
    lock = threading.Lock()

    def caller(number: int) -> None:
        dice = random.Random(seed * 100 + number)
        for ident in range(number * 1000, number * 1000 + 60):
            timeout_s = dice.choice([None, None, 5.0, 0.001])
            try:
                if dice.random() < 0.2:
                    decode = pool.submit(GenerateRequest("m", (ident,), max_new_tokens=4), timeout_s=timeout_s)
                    entry: tuple[int, Future[ScoreResult] | Future[Generation]] = (ident, decode)
                else:
                    length = dice.randint(1, 9)
                    verdict = pool.submit(ScoreRequest("m", (ident,) * length, (1, 2)), timeout_s=timeout_s)
                    entry = (ident, verdict)
            except PERMITTED as error:
                with lock:
                    rejected.append(error)
                continue
            if dice.random() < 0.15:
                entry[1].cancel()
            with lock:
                outcomes.append(entry)
            if dice.random() < 0.1:
                with suppress(*PERMITTED):
                    read_two(pool, ident)

    with InferencePool(replicas=2, max_batch=6, max_batch_tokens=40, max_queued=100, drain_s=WAIT_S) as pool:
        pool.register("m", chaos.replica.factory)
        threads = [threading.Thread(target=caller, args=(number,), daemon=True) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
            assert not thread.is_alive(), "a caller hangs"
        _, hanging = wait([future for _, future in outcomes], WAIT_S)
        assert not hanging, "a waiter hangs"
        for ident, future in outcomes:
            check(ident, future)
    stats = pool.stats()
    assert stats.queued == stats.running == stats.queued_tokens == 0
    assert stats.submitted == stats.completed + stats.failed + stats.cancelled + stats.expired
    assert stats.completed > 0
    assert all(isinstance(error, PERMITTED) for error in rejected)


def read_two(pool: InferencePool, ident: int) -> None:
    """Abandon a stream after two tokens."""
    for token_id in pool.stream(GenerateRequest("m", (ident,), max_new_tokens=9)):
        if token_id == 1:
            break


def check(ident: int, future: Future[ScoreResult] | Future[Generation]) -> None:
    try:
        answer = future.result(0)
    except PERMITTED:
        return
    if isinstance(answer, ScoreResult):
        assert answer.logprobs[0] == ident, "an answer went to another caller"
    else:
        assert len(answer.token_ids) == 4
