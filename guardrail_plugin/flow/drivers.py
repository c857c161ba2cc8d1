"""Run rails against a guardian, from sync or async code, one or many at a time.

``lockstep`` advances all generators of a batch together and gathers what they wait for; the two drivers only
carry those rounds to the guardian. A single call is a batch of one.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from guardrail_plugin.flow.effects import Answer, Effect, Steps
from guardrail_plugin.flow.perform import aperform, perform
from guardrail_plugin.guardian.protocol import GuardianProtocol

T = TypeVar("T")
Y = TypeVar("Y")
S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class _Done(Generic[T]):
    value: T


def _begin(generator: Generator[Y, Any, T]) -> Y | _Done[T]:
    try:
        return next(generator)
    except StopIteration as stop:
        return _Done(stop.value)


def _advance(generator: Generator[Y, S, T], answer: S) -> Y | _Done[T]:
    # Kept apart from the effects: a StopIteration out of a guardian must not end a rail.
    try:
        return generator.send(answer)
    except StopIteration as stop:
        return _Done(stop.value)


def lockstep(flows: Sequence[Steps[T]]) -> Generator[list[Effect], list[Answer], list[T]]:
    """Advance many flows together. Each round yields what all unfinished ones wait for and is sent the answers.

    Whatever ends it early (an error, cancellation), every flow is closed.
    """
    try:
        steps = [_begin(flow) for flow in flows]
        while waiting := {index: step for index, step in enumerate(steps) if not isinstance(step, _Done)}:
            answers = yield list(waiting.values())
            for index, answer in zip(waiting, answers, strict=True):
                steps[index] = _advance(flows[index], answer)
        return [step.value for step in steps if isinstance(step, _Done)]
    finally:
        for flow in flows:
            flow.close()


def run_sync(flow: Steps[T], guardian: GuardianProtocol) -> T:
    """Run one flow to its outcome. Errors that are not of this library pass through."""
    return run_batch_sync([flow], guardian)[0]


async def run_async(flow: Steps[T], guardian: GuardianProtocol) -> T:
    """Run one flow to its outcome. Cancellation: passes to the guardian, which withdraws the work; nothing is left."""
    return (await run_batch_async([flow], guardian))[0]


def run_batch_sync(
    flows: Sequence[Steps[T]], guardian: GuardianProtocol, *, max_concurrency: int | None = None
) -> list[T]:
    """Run many flows in lockstep: all their checks of a round are one ``check_many`` call.

    Safeguard responses are asked for one by one, at most ``max_concurrency`` at a time.
    """
    rounds = lockstep(flows)
    try:
        step = _begin(rounds)
        while not isinstance(step, _Done):
            step = _advance(rounds, perform(step, guardian, max_concurrency))
        return step.value
    finally:
        rounds.close()


async def run_batch_async(
    flows: Sequence[Steps[T]], guardian: GuardianProtocol, *, max_concurrency: int | None = None
) -> list[T]:
    """Like ``run_batch_sync``. Cancellation: outstanding checks and responses are cancelled and awaited."""
    rounds = lockstep(flows)
    try:
        step = _begin(rounds)
        while not isinstance(step, _Done):
            step = _advance(rounds, await aperform(step, guardian, max_concurrency))
        return step.value
    finally:
        rounds.close()
