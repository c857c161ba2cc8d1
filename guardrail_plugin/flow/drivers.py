"""Run rails against a guardian, from sync or async code, one or many at a time.

``lockstep`` advances all generators of a batch together and gathers what they wait for; the two drivers only
carry those rounds to the guardian. A single call is a batch of one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import GuardianError, GuardrailError, VerdictParseError
from guardrail_plugin.core.verdict import Verdict
from guardrail_plugin.flow.effects import Answer, Classify, Effect, Respond, Steps
from guardrail_plugin.guardian.protocol import CheckOutcome, GuardianProtocol

T = TypeVar("T")
Y = TypeVar("Y")
S = TypeVar("S")

RESPONSE_CONCURRENCY = 8
"""Safeguard responses that a sync batch asks for at once (threads), unless the caller sets ``max_concurrency``."""


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
            step = _advance(rounds, _perform(step, guardian, max_concurrency))
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
            step = _advance(rounds, await _aperform(step, guardian, max_concurrency))
        return step.value
    finally:
        rounds.close()


def _perform(effects: Sequence[Effect], guardian: GuardianProtocol, limit: int | None) -> list[Answer]:
    answers: dict[int, Answer] = {}
    for timeout_s, checks in _batches(effects).items():
        try:
            outcomes = _vetted(checks, guardian.check_many(list(checks.values()), timeout_s=timeout_s))
        except GuardrailError as error:
            outcomes = [error] * len(checks)
        answers.update(zip(checks, outcomes, strict=True))
    responds = {index: effect for index, effect in enumerate(effects) if isinstance(effect, Respond)}

    def respond(effect: Respond) -> Answer:
        try:
            return guardian.respond(effect.check, effect.verdict, timeout_s=effect.timeout_s)
        except GuardrailError as error:
            return error

    if len(responds) > 1 and limit != 1:
        with ThreadPoolExecutor(max_workers=min(len(responds), limit or RESPONSE_CONCURRENCY)) as executor:
            futures = [executor.submit(copy_context().run, respond, effect) for effect in responds.values()]
            answers.update(zip(responds, [future.result() for future in futures], strict=True))
    else:
        answers.update((index, respond(effect)) for index, effect in responds.items())
    return [answers[index] for index in range(len(effects))]


async def _aperform(effects: Sequence[Effect], guardian: GuardianProtocol, limit: int | None) -> list[Answer]:
    answers: dict[int, Answer] = {}
    for timeout_s, checks in _batches(effects).items():
        try:
            outcomes = _vetted(checks, await guardian.acheck_many(list(checks.values()), timeout_s=timeout_s))
        except GuardrailError as error:
            outcomes = [error] * len(checks)
        answers.update(zip(checks, outcomes, strict=True))
    responds = {index: effect for index, effect in enumerate(effects) if isinstance(effect, Respond)}
    room = asyncio.Semaphore(limit or len(responds) or 1)

    async def respond(effect: Respond) -> Answer:
        async with room:
            try:
                return await guardian.arespond(effect.check, effect.verdict, timeout_s=effect.timeout_s)
            except GuardrailError as error:
                return error

    if len(responds) == 1:
        answers.update({index: await respond(effect) for index, effect in responds.items()})
    elif responds:
        answers.update(zip(responds, await _all([respond(effect) for effect in responds.values()]), strict=True))
    return [answers[index] for index in range(len(effects))]


async def _all(work: Sequence[Coroutine[object, object, T]]) -> list[T]:
    """Await all; when one raises or the caller is cancelled, cancel and await the rest before passing it on."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _batches(effects: Sequence[Effect]) -> dict[float, dict[int, Check]]:
    """Group checks by time limit: flows of one wrapper share one limit, so that this is one batch."""
    batches: dict[float, dict[int, Check]] = {}
    for index, effect in enumerate(effects):
        if isinstance(effect, Classify):
            batches.setdefault(effect.timeout_s, {})[index] = effect.check
    return batches


def _vetted(checks: dict[int, Check], outcomes: Sequence[CheckOutcome]) -> list[CheckOutcome]:
    """Take a guardian's answers only if each is an answer to its check: a broken guardian must not open the rail."""
    if len(outcomes) != len(checks):
        raise GuardianError(f"the guardian gave {len(outcomes)} answers to {len(checks)} checks")
    return [_vet(check, outcome) for check, outcome in zip(checks.values(), outcomes, strict=True)]


def _vet(check: Check, outcome: object) -> CheckOutcome:
    if isinstance(outcome, GuardrailError):
        return outcome
    if not isinstance(outcome, Verdict):
        return VerdictParseError(f"the guardian answered with {type(outcome).__name__}, not with a verdict")
    if outcome.rail != check.rail:
        return VerdictParseError(f"the guardian answered for the {outcome.rail} rail, asked for the {check.rail} rail")
    return outcome
