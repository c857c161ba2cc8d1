"""The drivers of held streams: once a block has stopped the source, the source's own troubles count no more."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.core.verdict import Verdict
from guardrail_plugin.flow import Blocked, HoldBack, Part, Rules, Uncheckable, Window
from guardrail_plugin.flow.streaming import Ending, ahold, hold
from guardrail_plugin.guardian.protocol import CheckOutcome
from guardrail_plugin.testing import ScriptedGuardian, verdict

NO = "I can't help with that."
RULE: dict[str, CheckOutcome] = {"BOMB": verdict(risk=0.9, hazard="S9")}


class Words:
    """Reads chunks that are words."""

    def read(self, chunk: str) -> Part:
        return Part(chunk)

    def rest(self) -> tuple[Check, ...]:
        return ()

    def nothing(self) -> Uncheckable | None:
        return None


class Detail:
    """What an error's frames hold."""


def machine() -> HoldBack[str]:
    return HoldBack(window=Window("sentence"), rules=Rules(policy=Policy()), query="hi")


async def test_a_block_counts_before_an_error_of_the_same_moment() -> None:
    judged = asyncio.Event()
    held: list[weakref.ref[Detail]] = []
    alive: list[bool] = []

    class Judging(ScriptedGuardian):
        async def acheck_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
            judged.set()
            return self.check_many(checks, timeout_s=timeout_s)

        async def arespond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
            alive.extend(ref() is not None for ref in held)
            return NO

    async def talk() -> AsyncIterator[str]:
        yield "Take the BOMB and go. "
        detail = Detail()
        held.append(weakref.ref(detail))
        await judged.wait()  # runs on before the reader does: both find their way into one inbox
        raise ConnectionError("lost")

    stream = ahold(machine(), talk(), reader=Words(), guardian=Judging(RULE), timeout_s=5.0)
    [ending] = [item async for item in stream]
    assert isinstance(ending, Ending)
    assert isinstance(ending.outcome, Blocked)
    assert ending.outcome.response == NO
    assert alive == [False]


def trouble(first: str) -> Iterator[str]:
    try:
        yield first
        yield "The rest of it. "
    finally:
        raise ConnectionError("lost")


def test_a_block_counts_before_an_error_on_closing_the_source() -> None:
    guardian = ScriptedGuardian(RULE, respond=NO)
    stream = hold(machine(), trouble("Take the BOMB and go. "), reader=Words(), guardian=guardian, timeout_s=5.0)
    [ending] = stream
    assert isinstance(ending, Ending)
    assert isinstance(ending.outcome, Blocked)


def test_an_error_on_closing_the_source_passes_where_nothing_was_blocked() -> None:
    guardian = ScriptedGuardian(RULE, respond=NO)
    stream = hold(machine(), trouble("Take the bus and go. "), reader=Words(), guardian=guardian, timeout_s=5.0)
    with pytest.raises(ConnectionError):
        list(stream)
