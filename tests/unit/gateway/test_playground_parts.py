"""The playground's parts: what a slider shows, where time is counted, how events are joined."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from guardrail_gateway.playground.decisions import decisions
from guardrail_gateway.playground.measured import TimedGuardian, text_of
from guardrail_gateway.playground.outbox import Outbox
from guardrail_plugin import Check, HazardRule, Policy, RailRule
from guardrail_plugin.pool import InferencePool, ScoreRequest
from guardrail_plugin.testing import ScriptedGuardian, verdict
from guardrail_plugin.testing.replicas import ScriptedReplica

MIXED = replace(verdict(risk=0.7, hazard="S2"), hazards={"S2": 0.4, "S12": 0.3})


@pytest.mark.parametrize(
    ("policy", "judged", "expected"),
    [
        (Policy(), verdict(risk=0.9, hazard="S9"), [(0.0, "block"), (0.91, "allow")]),
        (Policy(), verdict(), [(0.0, "block"), (0.01, "allow")]),
        (Policy(), verdict(risk=1.0, hazard="S1"), [(0.0, "block")]),
        (Policy(hazards={"S12": HazardRule(action="allow")}), MIXED, [(0.0, "block"), (0.4, "allow")]),
        (Policy(hazards={"S12": HazardRule(threshold=0.3)}), MIXED, [(0.0, "block")]),
        (
            Policy(rails={"input": RailRule(action="escalate", threshold=0.2)}),
            verdict(risk=0.55),
            [(0.0, "escalate"), (0.56, "allow")],
        ),
        (Policy(), verdict(truncated=True), [(0.0, "block")]),
    ],
)
def test_the_policy_itself_decides_at_every_threshold(policy: Policy, judged: Any, expected: list[Any]) -> None:
    assert decisions(policy, judged) == expected


async def test_queueing_is_told_apart() -> None:
    with InferencePool() as pool:
        pool.register("m", ScriptedReplica().factory)

        class Pooled(ScriptedGuardian):
            async def acheck_many(self, checks: Any, *, timeout_s: float | None = None) -> Any:
                await asyncio.wrap_future(pool.submit(ScoreRequest("m", (1,), (1, 2))))
                return self.check_many(checks)

        timed = TimedGuardian(Pooled({}), stats=pool.stats)
        await timed.acheck_many([Check("hi")])
        assert (timed.id, timed.checks) == ("scripted", 1)
        assert timed.queue_s is not None
        assert 0.0 < timed.queue_s < timed.check_s
        assert await timed.arespond(Check("hi"), None) == "I can't help with that."
        assert timed.respond_s > 0.0
    assert TimedGuardian(Pooled({})).queue_s is None


@pytest.mark.parametrize(
    ("chunk", "text"),
    [
        ({"choices": [{"delta": {"content": "hi"}}]}, "hi"),
        ({"choices": [{"delta": {"content": None}}]}, ""),
        ({"choices": [{"delta": {}}]}, ""),
        ({"choices": []}, ""),
        ({"usage": {}}, ""),
    ],
)
def test_text_of_chunks(chunk: dict[str, object], text: str) -> None:
    assert text_of(chunk) == text


async def test_events_that_wait_are_joined() -> None:
    outbox = Outbox()
    outbox.put("rail", risk=0.1)
    for count in (5, 9):
        outbox.held(count)
    for text in ("a", "b"):
        outbox.text(text)
    outbox.close()
    assert [event async for event in outbox] == [
        {"kind": "rail", "risk": 0.1},
        {"kind": "held", "characters": 9},
        {"kind": "text", "text": "ab"},
    ]
