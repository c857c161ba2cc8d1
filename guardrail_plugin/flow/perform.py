"""Carry out effects: the guardian's checks in batches, safeguard responses and people's answers one by one."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from threading import Thread
from typing import TypeAlias, TypeVar

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import ConfigError, GuardianError, GuardrailError, VerdictParseError
from guardrail_plugin.core.verdict import Verdict
from guardrail_plugin.flow.effects import Answer, Classify, ClassifyMany, Effect, Escalate, Judged, Respond, Told
from guardrail_plugin.guardian.protocol import CheckOutcome, GuardianProtocol

T = TypeVar("T")

RESPONSE_CONCURRENCY = 8
"""Safeguard responses that a sync batch asks for at once (threads), unless the caller sets ``max_concurrency``."""

_Place: TypeAlias = tuple[int, int]
"""Which effect, and which check of it."""


def perform(effects: Sequence[Effect], guardian: GuardianProtocol, limit: int | None) -> list[Answer]:
    """Answer one round of effects: the checks, then the responses, then the people.

    All checks are one ``check_many``; with ``limit``, those of so many effects are, each time with all of its timeout.
    """
    found: dict[_Place, CheckOutcome] = {}
    for timeout_s, checks in _batches(effects, limit):
        found.update(zip(checks, judge(list(checks.values()), guardian, timeout_s), strict=True))
    answers = _verdicts(effects, found)

    def respond(effect: Respond) -> Answer:
        try:
            return guardian.respond(effect.check, effect.verdict, timeout_s=effect.timeout_s)
        except GuardrailError as error:
            return error

    responds = {index: effect for index, effect in enumerate(effects) if isinstance(effect, Respond)}
    if len(responds) > 1 and limit != 1:
        with ThreadPoolExecutor(max_workers=min(len(responds), limit or RESPONSE_CONCURRENCY)) as executor:
            futures = [executor.submit(copy_context().run, respond, effect) for effect in responds.values()]
            answers.update(zip(responds, [future.result() for future in futures], strict=True))
    else:
        answers.update((index, respond(effect)) for index, effect in responds.items())
    answers.update((i, _ask(effect)) for i, effect in enumerate(effects) if isinstance(effect, Escalate))
    return [answers[index] for index in range(len(effects))]


async def aperform(effects: Sequence[Effect], guardian: GuardianProtocol, limit: int | None) -> list[Answer]:
    """Like ``perform``. Cancellation: outstanding checks, responses and questions are cancelled and awaited."""
    found: dict[_Place, CheckOutcome] = {}
    for timeout_s, checks in _batches(effects, limit):
        found.update(zip(checks, await ajudge(list(checks.values()), guardian, timeout_s), strict=True))
    answers = _verdicts(effects, found)
    room = asyncio.Semaphore(limit or len(effects))

    async def respond(effect: Respond) -> Answer:
        async with room:
            try:
                return await guardian.arespond(effect.check, effect.verdict, timeout_s=effect.timeout_s)
            except GuardrailError as error:
                return error

    work: dict[int, Callable[[], Coroutine[object, object, Answer]]] = {}
    for index, effect in enumerate(effects):
        if isinstance(effect, Respond):
            work[index] = lambda effect=effect: respond(effect)  # type: ignore[misc]
        elif isinstance(effect, Escalate):
            work[index] = lambda effect=effect: _aask(effect)  # type: ignore[misc]
    if len(work) == 1:
        answers.update({index: await start() for index, start in work.items()})
    elif work:
        answers.update(zip(work, await _all([start() for start in work.values()]), strict=True))
    return [answers[index] for index in range(len(effects))]


def judge(checks: Sequence[Check], guardian: GuardianProtocol, timeout_s: float) -> list[CheckOutcome]:
    """Ask the guardian, and take its answers only if each is an answer to its check."""
    try:
        return _vetted(checks, guardian.check_many(list(checks), timeout_s=timeout_s))
    except GuardrailError as error:
        return [error] * len(checks)


async def ajudge(checks: Sequence[Check], guardian: GuardianProtocol, timeout_s: float) -> list[CheckOutcome]:
    """Like ``judge``. Cancellation: passes to the guardian, which withdraws the work."""
    try:
        return _vetted(checks, await guardian.acheck_many(list(checks), timeout_s=timeout_s))
    except GuardrailError as error:
        return [error] * len(checks)


def _ask(effect: Escalate) -> Told:
    answer = effect.ask(effect.verdict, effect.check)
    if isinstance(answer, Awaitable):
        if inspect.iscoroutine(answer):
            answer.close()
        raise ConfigError("on_escalate is async, so it can decide in async calls only; pass a plain function")
    return Told(answer)


async def _aask(effect: Escalate) -> Told:
    if inspect.iscoroutinefunction(effect.ask):
        return Told(await effect.ask(effect.verdict, effect.check))
    # A person thinks for minutes: a plain function must not hold up the event loop.
    answer = await _in_thread(lambda: effect.ask(effect.verdict, effect.check))
    return Told(await answer if isinstance(answer, Awaitable) else answer)


async def _in_thread(work: Callable[[], T]) -> T:
    """Run a function in a thread of its own. Cancellation: passes; the thread is left to itself.

    Not in the loop's executor: all its threads may be waiting for what this answers.
    """
    result: Future[T] = Future()
    result.set_running_or_notify_cancel()

    def run(result: Future[T]) -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)
            del result  # the error's traceback holds this frame: the two would keep each other

    # A daemon: an abandoned question must not keep the process from ending.
    Thread(target=copy_context().run, args=(run, result), name="guardrail-escalate", daemon=True).start()
    return await asyncio.wrap_future(result)


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


def _batches(effects: Sequence[Effect], limit: int | None) -> Iterator[tuple[float, dict[_Place, Check]]]:
    """Yield the checks that are asked for at once, with their time limit: those of at most ``limit`` effects.

    Flows of one wrapper share one time limit, so that without ``limit`` this is one batch. The checks of one effect
    stay together.
    """
    asking: dict[float, list[dict[_Place, Check]]] = {}
    for index, effect in enumerate(effects):
        if isinstance(effect, Classify | ClassifyMany):
            checks: tuple[Check, ...] = (effect.check,) if isinstance(effect, Classify) else effect.checks
            if checks:
                placed = {(index, part): check for part, check in enumerate(checks)}
                asking.setdefault(effect.timeout_s, []).append(placed)
    for timeout_s, each in asking.items():
        most = max(limit or len(each), 1)
        for start in range(0, len(each), most):
            some = each[start : start + most]
            yield timeout_s, {place: check for its_checks in some for place, check in its_checks.items()}


def _verdicts(effects: Sequence[Effect], found: dict[_Place, CheckOutcome]) -> dict[int, Answer]:
    answers: dict[int, Answer] = {}
    for index, effect in enumerate(effects):
        if isinstance(effect, Classify):
            answers[index] = found[index, 0]
        elif isinstance(effect, ClassifyMany):
            answers[index] = Judged(tuple(found[index, part] for part in range(len(effect.checks))))
    return answers


def _vetted(checks: Sequence[Check], outcomes: Sequence[CheckOutcome]) -> list[CheckOutcome]:
    """Take a guardian's answers only if each is an answer to its check: a broken guardian must not open the rail."""
    if len(outcomes) != len(checks):
        raise GuardianError(f"the guardian gave {len(outcomes)} answers to {len(checks)} checks")
    return [_vet(check, outcome) for check, outcome in zip(checks, outcomes, strict=True)]


def _vet(check: Check, outcome: object) -> CheckOutcome:
    if isinstance(outcome, GuardrailError):
        return outcome
    if not isinstance(outcome, Verdict):
        return VerdictParseError(f"the guardian answered with {type(outcome).__name__}, not with a verdict")
    if outcome.rail != check.rail:
        return VerdictParseError(f"the guardian answered for the {outcome.rail} rail, asked for the {check.rail} rail")
    return outcome
