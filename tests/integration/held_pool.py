"""A pool whose replica is held while callers queue, requests that carry an id, and callers in threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from guardrail_plugin.pool import InferencePool, ScoreRequest, ScoreResult
from guardrail_plugin.pool import lifecycle as lifecycle_room
from guardrail_plugin.testing.replicas import Hold, ScriptedReplica

WAIT_S = 20.0
Held = tuple[InferencePool, ScriptedReplica, Hold]


def score(ident: int, *, tokens: int = 1, model: str = "m") -> ScoreRequest:
    return ScoreRequest(model, (ident,) * tokens, (1, 2))


def echo(request: ScoreRequest) -> list[float]:
    """An answer that tells which request it belongs to."""
    return [float(request.input_ids[0]), 0.0]


def ident_of(result: object) -> int:
    assert isinstance(result, ScoreResult), result
    return int(result.logprobs[0])


def batches(replica: ScriptedReplica) -> list[list[int]]:
    return [[r.input_ids[0] for r in call.requests] for call in replica.calls if call.kind == "score"]


def run_threads(*targets: Callable[[], None]) -> None:
    """Run all at once; fail if one hangs or raises."""
    errors: list[BaseException] = []

    def guarded(target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(target,), daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert not any(thread.is_alive() for thread in threads), "a caller hangs"
    assert not errors, errors


def until(holds: Callable[[], bool]) -> None:
    """Wait for what the pool has no event for; fail if it does not come about."""
    give_up, tick = time.monotonic() + WAIT_S, threading.Event()
    while not holds():
        assert time.monotonic() < give_up, "it never came about"
        tick.wait(0.001)


async def auntil(holds: Callable[[], bool]) -> int:
    """As ``until``, while the event loop goes on turning; return how often it turned."""
    give_up, turns = time.monotonic() + WAIT_S, 0
    while not holds():
        assert time.monotonic() < give_up, "it never came about"
        await asyncio.sleep(0.001)
        turns += 1
    return turns


def patient_join(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a pool's threads may need longer to end than callers are kept; tests that look wait on."""
    monkeypatch.setattr(lifecycle_room, "_JOIN_S", 30.0)


def held_pool() -> Iterator[Held]:
    """A pool of one slot and a small queue, whose replica is busy with request 0 until the hold is released."""
    hold = Hold()
    replica = ScriptedReplica(logprobs=echo, on_call=hold)
    with InferencePool(max_queued=4, max_batch=4, max_queued_tokens=100, drain_s=0.5) as pool:
        pool.register("m", replica.factory)
        pool.submit(score(0))
        assert hold.entered.wait(WAIT_S)
        yield pool, replica, hold
        hold.release()
