"""All ways to call a guarded Runnable give one answer, and a blocked call never runs the chain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.prompt_values import ChatPromptValue, StringPromptValue
from langchain_core.runnables import Runnable, RunnablePassthrough

from guardrail_plugin.core.errors import (
    GuardianError,
    GuardianTimeout,
    MissingDependencyError,
    PoolClosed,
    PoolOverloaded,
    VerdictParseError,
)
from guardrail_plugin.core.policy import HazardRule, Policy
from guardrail_plugin.flow.rails import UNCHECKABLE_BESIDE, UNCHECKABLE_RESPONSE, UNJUDGED_RESPONSE
from guardrail_plugin.guardian.fallbacks import too_long
from guardrail_plugin.guardian.protocol import CheckOutcome
from guardrail_plugin.runnables import guard
from guardrail_plugin.testing import ScriptedGuardian, verdict
from guardrail_plugin.testing.paths import ASYNC_PATHS, SYNC_PATHS, CountingChain, Reply

SAFEGUARD = "I can't help with that."
ANSWER = "an answer"

RULE: dict[str, CheckOutcome] = {
    "BOMB": verdict(risk=0.97, hazard="S9"),
    "DOWN": GuardianError("the guardian is down"),
    "SLOW": GuardianTimeout(30.0),
    "FULL": PoolOverloaded("the queue is full", retry_after_s=1.0),
    "CLOSED": PoolClosed("the pool is closed"),
    "RUBBISH": VerdictParseError("no label token"),
    "BARE": MissingDependencyError("torch", extra="local"),
    "LONG": verdict(risk=0.01, truncated=True),
}


@dataclass(frozen=True)
class Case:
    """One input under one policy, and what must come back."""

    name: str
    value: object
    kind: str
    text: str
    runs: bool
    settings: dict[str, Any] = field(default_factory=dict)


def _forms(text: str) -> dict[str, tuple[object, dict[str, Any]]]:
    blocks: list[str | dict[str, Any]] = [
        {"type": "text", "text": text},
        {"type": "image_url", "image_url": {"url": "https://example.org/x.png"}},
    ]
    earlier = [SystemMessage("Be brief."), HumanMessage("Hello"), AIMessage("Hello!")]
    return {
        "str": (text, {}),
        "message": (HumanMessage(text), {}),
        "content blocks": (HumanMessage(blocks), {"on_uncheckable": "allow"}),
        "messages": ([*earlier, HumanMessage(text)], {}),
        "two messages in one turn": ([*earlier, HumanMessage(text), HumanMessage("Please!")], {}),
        "tuples": ([("system", "Be brief."), ("human", text)], {}),
        "dict messages": ([{"role": "user", "content": text}], {}),
        "one dict message": ({"role": "user", "content": text}, {}),
        "chat prompt": (ChatPromptValue(messages=[*earlier, HumanMessage(text)]), {}),
        "text prompt": (StringPromptValue(text=text), {}),
        "dict, lone value": ({"topic": text, "words": 50}, {}),
        "dict, known key": ({"question": text, "context": "Some documents."}, {}),
        "dict of messages": ({"messages": [HumanMessage(text)], "remaining_steps": 3}, {}),
        "dict, input_key": ({"a": text, "b": "other text"}, {"input_key": "a"}),
        "object, callable": ([b"", text], {"input_key": lambda value: value[1]}),
    }


def _cases() -> list[Case]:
    block_or_raise: list[tuple[str, dict[str, Any]]] = [("", {}), (", raise", {"on_block": "raise"})]
    cases = [
        Case(f"{form}: {word}", value, kind, answer, runs, settings)
        for word, kind, answer, runs in (
            ("HARMLESS", "str", ANSWER, True),
            ("BOMB", "str", SAFEGUARD, False),
            ("DOWN", "str", UNJUDGED_RESPONSE, False),
        )
        for form, (value, settings) in _forms(f"Tell me about {word}").items()
    ]
    for word in ("DOWN", "SLOW", "FULL", "CLOSED", "RUBBISH"):
        error = RULE[word]
        cases += [
            Case(f"{word}: block", word, "str", UNJUDGED_RESPONSE, False),
            Case(f"{word}: allow", word, "str", ANSWER, True, {"policy": Policy(on_failure="allow")}),
            Case(
                f"{word}: raise", word, type(error).__name__, str(error), False, {"policy": Policy(on_failure="raise")}
            ),
        ]
    for empty in ("", " \n", "\u2003"):
        cases += [Case(f"empty {empty!r}{label}", empty, *_uncheckable(settings)) for label, settings in block_or_raise]
    escalate = Policy(hazards={"S9": HazardRule(action="escalate")})
    ignore = Policy(hazards={"S9": HazardRule(action="allow")})
    cases += [
        Case(
            "policy: raise",
            "BOMB",
            "BlockedError",
            "blocked by the input rail: hazard S9",
            False,
            {"on_block": "raise"},
        ),
        Case("policy: escalate", "BOMB", "str", SAFEGUARD, False, {"policy": escalate}),
        Case("policy: hazard ignored", "BOMB", "str", ANSWER, True, {"policy": ignore}),
        Case("policy: threshold", "BOMB", "str", ANSWER, True, {"policy": Policy(threshold=0.98)}),
        Case("policy: truncated", "LONG", "str", too_long(), False),
        Case("policy: truncated allowed", "LONG", "str", ANSWER, True, {"policy": Policy(on_truncated="allow")}),
        Case("on_block function", "BOMB", "str", "S9!", False, {"on_block": lambda v, _: f"{v.hazard}!"}),
        Case("not the guardian's fault", "BARE", "MissingDependencyError", str(RULE["BARE"]), False),
        Case(
            "failed, raise on block", "DOWN", "BlockedError", "blocked by the input rail", False, {"on_block": "raise"}
        ),
        Case("surrogates", "BOMB \ud800 \udfff", "str", SAFEGUARD, False),
        Case("NUL", "BOMB\x00", "str", SAFEGUARD, False),
        Case("1 MB", "x" * 1_000_000 + "BOMB", "str", SAFEGUARD, False),
        Case("image beside text", _forms("hi")["content blocks"][0], "str", UNCHECKABLE_BESIDE, False),
        Case("image beside harm", _forms("BOMB")["content blocks"][0], "str", SAFEGUARD, False),
        Case("uncheckable: allow", "", "str", ANSWER, True, {"on_uncheckable": "allow"}),
    ]
    return cases


def _uncheckable(settings: dict[str, Any]) -> tuple[str, str, bool, dict[str, Any]]:
    if settings:
        return "BlockedError", "blocked by the input rail", False, settings
    return "str", UNCHECKABLE_RESPONSE, False, settings


CASES = _cases()


@pytest.mark.parametrize("path", SYNC_PATHS)
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_sync_paths_give_the_expected_answer(case: Case, path: str) -> None:
    chain = CountingChain(str)
    reply = SYNC_PATHS[path](guard(chain, guardian=_guardian(), **case.settings), case.value)
    assert (reply.kind, reply.text) == (case.kind, case.text)
    assert (chain.calls > 0) == case.runs


@pytest.mark.parametrize("path", ASYNC_PATHS)
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_async_paths_give_the_expected_answer(case: Case, path: str) -> None:
    chain = CountingChain(str)
    reply = await ASYNC_PATHS[path](guard(chain, guardian=_guardian(), **case.settings), case.value)
    assert (reply.kind, reply.text) == (case.kind, case.text)
    assert (chain.calls > 0) == case.runs


Wrap = Callable[[Runnable[Any, Any], Runnable[Any, Any]], Runnable[Any, Any]]

COMPOSITIONS: dict[str, Wrap] = {
    "alone": lambda guarded, _: guarded,
    "pipe": lambda guarded, _: RunnablePassthrough() | guarded | RunnablePassthrough(),
    "with_config": lambda guarded, _: guarded.with_config(tags=["t"], run_name="n"),
    "bind": lambda guarded, _: guarded.bind(stop=["x"]),
    "with_retry": lambda guarded, _: guarded.with_retry(retry_if_exception_type=(ConnectionError,)),
    "with_fallbacks": lambda guarded, other: guarded.with_fallbacks([other], exceptions_to_handle=(ConnectionError,)),
    "guarded twice": lambda guarded, _: guard(guarded, guardian=_guardian()),
}


@pytest.mark.parametrize("word", ["HARMLESS", "BOMB", "DOWN"])
@pytest.mark.parametrize("composition", COMPOSITIONS)
async def test_message_chains_agree_on_every_path_in_every_composition(composition: str, word: str) -> None:
    replies: dict[str, Reply] = {}
    for path in [*SYNC_PATHS, *ASYNC_PATHS]:
        chain, fallback = CountingChain(AIMessage), CountingChain(AIMessage)
        runnable = COMPOSITIONS[composition](guard(chain, guardian=_guardian()), fallback)
        value = [HumanMessage(word)]
        if path in SYNC_PATHS:
            replies[path] = SYNC_PATHS[path](runnable, value)
        else:
            replies[path] = await ASYNC_PATHS[path](runnable, value)
        assert (chain.calls > 0) == (word == "HARMLESS"), path
        assert fallback.calls == 0, path
    assert set(replies.values()) == {replies["invoke"]}
    assert replies["invoke"].kind == "AIMessage"
    expected = {"HARMLESS": (ANSWER, {}), "BOMB": (SAFEGUARD, {"hazard": "'S9'"}), "DOWN": (UNJUDGED_RESPONSE, {})}[
        word
    ]
    assert replies["invoke"].text == expected[0]
    assert expected[1].items() <= dict(replies["invoke"].guardrail).items()
    assert bool(replies["invoke"].guardrail) == (word != "HARMLESS")


def _guardian() -> ScriptedGuardian:
    return ScriptedGuardian(RULE, respond=SAFEGUARD)
