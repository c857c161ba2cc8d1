"""Drivers: batching of checks, responses side by side, and what may and may not pass through them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import GuardianError, GuardrailError, PoolClosed, VerdictParseError
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.core.verdict import Verdict
from guardrail_plugin.flow import (
    Allowed,
    Blocked,
    Classify,
    ClassifyMany,
    Failed,
    Judged,
    Outcome,
    Steps,
    input_rail,
    run_async,
    run_batch_async,
    run_batch_sync,
    run_sync,
)
from guardrail_plugin.flow.rails import BLOCKED_RESPONSE
from guardrail_plugin.guardian.protocol import CheckOutcome
from guardrail_plugin.testing import ScriptedGuardian, verdict

RULE: dict[str, CheckOutcome] = {"BOMB": verdict(risk=0.9, hazard="S9"), "DOWN": GuardianError("down")}


class Interrupt(Exception):
    """Stands for LangGraph's control-flow exceptions, which are ordinary exceptions."""


def flows(*texts: str, policy: Policy | None = None) -> list[Steps[Outcome]]:
    return [input_rail(Check(text), policy=policy or Policy()) for text in texts]


async def on_both(guardian: ScriptedGuardian, make: Callable[[], list[Steps[Outcome]]]) -> list[list[Outcome]]:
    return [run_batch_sync(make(), guardian), await run_batch_async(make(), guardian)]


async def test_a_batch_is_one_guardian_call_and_keeps_its_order() -> None:
    guardian = ScriptedGuardian(RULE)
    texts = ["hello", "BOMB", "DOWN", "world", "BOMB too"]
    for outcomes in await on_both(guardian, lambda: flows(*texts)):
        assert [type(outcome) for outcome in outcomes] == [Allowed, Blocked, Blocked, Allowed, Blocked]
        assert [outcome.error is None for outcome in outcomes] == [True, True, False, True, True]
    assert [[check.text for check in batch] for batch in guardian.batches] == [texts, texts]
    assert sorted(check.text for check in guardian.responses) == ["BOMB", "BOMB", "BOMB too", "BOMB too"]


async def test_an_empty_batch_asks_nobody() -> None:
    guardian = ScriptedGuardian(RULE)
    assert await on_both(guardian, list) == [[], []]
    assert guardian.batches == []


async def test_checks_of_different_time_limits_are_asked_with_their_own() -> None:
    limits: list[tuple[int, float | None]] = []

    class Noting(ScriptedGuardian):
        def check_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
            limits.append((len(checks), timeout_s))
            return super().check_many(checks, timeout_s=timeout_s)

    def make() -> list[Steps[Outcome]]:
        return [*flows("a", "b", policy=Policy(timeout_s=1.0)), *flows("c", policy=Policy(timeout_s=2.0))]

    await on_both(Noting(RULE), make)
    assert limits == [(2, 1.0), (1, 2.0)] * 2


async def test_a_limit_cuts_a_round_into_parts_and_no_flow_in_two() -> None:
    def harmful(text: str) -> Steps[int]:
        judged = yield ClassifyMany(tuple(Check(f"{text} {part}") for part in range(3)), 1.0)
        found = judged.outcomes if isinstance(judged, Judged) else ()
        return sum(isinstance(outcome, Verdict) and outcome.harmful for outcome in found)

    guardian, texts = ScriptedGuardian(RULE), ("a", "b", "BOMB")
    assert run_batch_sync([harmful(text) for text in texts], guardian, max_concurrency=2) == [0, 0, 3]
    assert await run_batch_async([harmful(text) for text in texts], guardian, max_concurrency=2) == [0, 0, 3]
    assert [len(batch) for batch in guardian.batches] == [6, 3, 6, 3]


async def test_an_error_of_the_whole_call_is_the_answer_to_each_check() -> None:
    def refuse(_: Check) -> Verdict:
        raise PoolClosed("never entered")

    for outcomes in await on_both(ScriptedGuardian(refuse), lambda: flows("a", "b", policy=Policy(on_failure="raise"))):
        assert [type(outcome.error) for outcome in outcomes] == [PoolClosed, PoolClosed]


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([], GuardianError),
        ([verdict()] * 3, GuardianError),
        ([None, verdict()], VerdictParseError),
        (["safe", verdict()], VerdictParseError),
        ([verdict(rail="output"), verdict()], VerdictParseError),
    ],
    ids=["none", "too many", "None", "str", "other rail"],
)
async def test_a_guardian_that_talks_rubbish_does_not_open_the_rail(answers: list[Any], error: type[Exception]) -> None:
    class Broken(ScriptedGuardian):
        def check_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
            return answers

    for first, _ in await on_both(Broken(RULE), lambda: flows("a", "b")):
        assert isinstance(first, Blocked)
        assert type(first.error) is error


@pytest.mark.parametrize(
    "error", [Interrupt(), StopIteration(), KeyboardInterrupt(), ValueError("a bug"), asyncio.CancelledError()]
)
async def test_what_is_not_ours_passes_and_closes_the_flows(error: BaseException) -> None:
    def interrupt(_: Check) -> Verdict:
        raise error

    # A coroutine cannot raise StopIteration: Python makes it a RuntimeError.
    passed = (RuntimeError,) if isinstance(error, StopIteration) else ()
    guardian = ScriptedGuardian(interrupt)
    sync_flow, async_flow = flows("a", "b")
    with pytest.raises(type(error)):
        run_sync(sync_flow, guardian)
    with pytest.raises((type(error), *passed)):
        await run_async(async_flow, guardian)
    for flow in (sync_flow, async_flow):
        with pytest.raises(StopIteration):
            next(flow)


async def test_an_error_of_the_responder_keeps_the_block() -> None:
    def fail(check: Check, _: Verdict | None) -> str:
        if "too" in check.text:
            raise GuardianError("the responder is down")
        return "No."

    for outcomes in await on_both(ScriptedGuardian(RULE, respond=fail), lambda: flows("BOMB", "BOMB too")):
        assert [outcome.response for outcome in outcomes if isinstance(outcome, Blocked)] == ["No.", BLOCKED_RESPONSE]


def test_sync_responses_are_asked_for_side_by_side_up_to_the_limit() -> None:
    # Three at a time can meet at the barrier, so six in all do; a lone or serial responder would break it.
    meeting = threading.Barrier(3, timeout=10.0)

    def meet(_: Check, __: Verdict | None) -> str:
        meeting.wait()
        return "No."

    outcomes = run_batch_sync(flows(*["BOMB"] * 6), ScriptedGuardian(RULE, respond=meet), max_concurrency=3)
    assert all(isinstance(outcome, Blocked) for outcome in outcomes)


class Waiting(ScriptedGuardian):
    """Responds when told to, and keeps count."""

    def __init__(self) -> None:
        super().__init__(RULE)
        self.go = asyncio.Event()
        self.arrived = asyncio.Semaphore(0)
        self.inside = self.most = self.cancelled = 0

    async def arespond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.arrived.release()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.inside -= 1
        return "No."


async def test_async_responses_are_bounded_by_max_concurrency() -> None:
    guardian = Waiting()
    task = asyncio.create_task(run_batch_async(flows(*["BOMB"] * 5), guardian, max_concurrency=2))
    await guardian.arrived.acquire()
    await guardian.arrived.acquire()
    guardian.go.set()
    assert all(isinstance(outcome, Blocked) for outcome in await task)
    assert guardian.most == 2


async def test_cancelling_a_batch_cancels_its_responses_and_leaves_none_running() -> None:
    guardian = Waiting()
    task = asyncio.create_task(run_batch_async(flows("BOMB", "BOMB", "hello"), guardian))
    await guardian.arrived.acquire()
    await guardian.arrived.acquire()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (guardian.inside, guardian.cancelled) == (0, 2)


async def test_an_interrupt_in_one_response_cancels_the_others() -> None:
    class OneInterrupts(Waiting):
        async def arespond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
            if "worst" in check.text:
                await self.arrived.acquire()
                raise Interrupt
            return await super().arespond(check, verdict, timeout_s=timeout_s)

    guardian = OneInterrupts()
    with pytest.raises(Interrupt):
        await run_batch_async(flows("BOMB", "worst BOMB"), guardian)
    assert (guardian.inside, guardian.cancelled) == (0, 1)


async def test_cancellation_reaches_the_guardian_while_it_judges() -> None:
    class Slow(ScriptedGuardian):
        async def acheck_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
            self.batches.append(list(checks))
            started.set()
            await asyncio.Event().wait()
            raise AssertionError("never set")

    started = asyncio.Event()
    guardian = Slow(RULE)
    task = asyncio.create_task(run_async(flows("a")[0], guardian))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_flows_of_different_length_share_the_rounds_they_have() -> None:
    def twice(text: str) -> Steps[str]:
        first = yield Classify(Check(text), 1.0)
        second = yield Classify(Check(f"{text} again"), 1.0)
        return f"{type(first).__name__} {type(second).__name__}"

    def none() -> Steps[str]:
        yield from ()
        return "nothing"

    guardian = ScriptedGuardian({"DOWN": GuardianError("down")})
    sync_results = run_batch_sync([twice("a"), none(), twice("DOWN")], guardian)
    async_results = await run_batch_async([twice("a"), none(), twice("DOWN")], guardian)
    assert sync_results == async_results == ["Verdict Verdict", "nothing", "GuardianError GuardianError"]
    assert [len(batch) for batch in guardian.batches] == [2, 2, 2, 2]


def test_a_failed_outcome_does_not_disturb_its_neighbours() -> None:
    policy = Policy(on_failure="raise")
    outcomes = run_batch_sync(flows("DOWN", "hello", policy=policy), ScriptedGuardian(RULE))
    assert isinstance(outcomes[0], Failed)
    assert isinstance(outcomes[0].error, GuardrailError)
    assert isinstance(outcomes[1], Allowed)
