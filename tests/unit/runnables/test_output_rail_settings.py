"""The output rail of ``guard()``: what its settings change, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda, RunnableParallel

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import BlockedError, ConfigError, GuardianError, InputError
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.core.verdict import Verdict
from guardrail_plugin.guardian.protocol import CheckOutcome
from guardrail_plugin.runnables import guard
from guardrail_plugin.testing import ScriptedGuardian, allow_all, verdict
from guardrail_plugin.testing.models import ScriptedModel

NO = "I can't help with that."
BOTH = ("input", "output")
HARMLESS = ["A first ", "sentence here. ", "And ", "the second ", "one."]
HARMFUL = ["A first ", "sentence here. ", "Now the ", "BOMB ", "recipe. ", "And ", "more."]


def guardian(**rule: CheckOutcome) -> ScriptedGuardian:
    return ScriptedGuardian({"BOMB": verdict(risk=0.9, hazard="S9"), "DOWN": GuardianError("down"), **rule}, respond=NO)


def safe(runnable: Any, judge: ScriptedGuardian | None = None, **settings: Any) -> Any:
    return guard(runnable, guardian=judge or guardian(), rails=settings.pop("rails", BOTH), **settings)


async def collect(chunks: AsyncIterator[Any]) -> list[Any]:
    return [chunk async for chunk in chunks]


def added(chunks: Sequence[Any]) -> Any:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    return whole


def test_an_answer_of_images_only_follows_on_uncheckable() -> None:
    turn = [AIMessageChunk(content=[{"type": "image", "url": "https://example.org/x.png"}])]
    assert "no text" in safe(ScriptedModel(turn)).invoke("hi").text
    assert "no text" in added(list(safe(ScriptedModel(turn)).stream("hi"))).text
    assert safe(ScriptedModel(turn), on_uncheckable="allow").invoke("hi").content
    with pytest.raises(InputError):
        list(safe(ScriptedModel(turn), on_uncheckable="raise").stream("hi"))


def test_empty_answers_pass_without_a_check() -> None:
    judge = guardian()
    chain = safe(ScriptedModel([]), judge, rails=("output",))
    assert (chain.invoke("hi").text, added(list(chain.stream("hi"))).text) == ("", "")
    assert judge.checks == []


def test_blocks_raise_where_the_policy_says_so_also_in_streams() -> None:
    chain = safe(ScriptedModel(HARMFUL), on_block="raise")
    with pytest.raises(BlockedError) as caught:
        chain.invoke("hi")
    assert caught.value.rail == "output"
    with pytest.raises(BlockedError):
        list(chain.stream("hi"))
    assert [type(o) for o in chain.batch(["hi"], return_exceptions=True)] == [BlockedError]


async def test_a_guardian_that_fails_on_the_answer_closes_or_opens_as_told() -> None:
    model = ScriptedModel(["It is DOWN today."])
    assert "could not be completed" in safe(model).invoke("hi").text
    assert "could not be completed" in added(await collect(safe(model).astream("hi"))).text
    lax = Policy(on_failure="allow")
    assert safe(model, policy=lax).invoke("hi").text == added(list(safe(model, policy=lax).stream("hi"))).text
    with pytest.raises(GuardianError):
        list(safe(model, policy=Policy(on_failure="raise")).stream("hi"))


async def test_output_text_reads_what_the_rail_cannot() -> None:
    bare = RunnableParallel(answer=ScriptedModel(HARMFUL) | StrOutputParser())
    chain = safe(
        bare, rails=("output",), output_text=lambda output: output["answer"], on_block=lambda _, text: {"answer": text}
    )
    assert chain.invoke("hi") == await chain.ainvoke("hi") == {"answer": NO}
    assert list(chain.stream("hi")) == await collect(chain.astream("hi")) == [{"answer": NO}]
    assert list(safe(bare, allow_all(), output_text=str, on_block="raise").stream("hi"))
    with pytest.raises(InputError, match="output_text raised KeyError"):
        safe(bare, output_text=lambda output: output["wrong"], on_block="raise").invoke("hi")


def test_an_output_that_is_not_what_was_declared_does_not_pass() -> None:
    chain = safe(RunnableLambda(lambda _: {"BOMB": 1}), output_type=str)
    with pytest.raises(InputError, match="which is a dict; pass output_text"):
        chain.invoke("hi")
    with pytest.raises(InputError, match="which is a dict"):
        list(chain.stream("hi"))


def test_with_the_output_rail_alone_inputs_are_not_judged() -> None:
    judge = guardian()
    assert safe(ScriptedModel(HARMLESS), judge, rails=("output",)).invoke("a BOMB?").text == "".join(HARMLESS)
    assert [check.rail for check in judge.checks] == ["output"]
    assert safe(RunnableLambda(lambda _: "fine"), judge, rails=["output"], output_type=str).invoke(object()) == "fine"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rails": ()}, "rails must hold"),
        ({"rails": "output"}, "rails must hold"),
        ({"rails": ("outputs",)}, r"rails='outputs' .* \(did you mean 'output'\?\)"),
        ({"window": "sentense"}, r"did you mean 'sentence'\?"),
        ({"window": 0}, "window must be 1 word or more"),
        ({"release": "optimistc"}, r"did you mean 'optimistic'\?"),
        ({"overlap": True, "rails": ("output",)}, "rails has no 'input'"),
        ({"output_text": "answer"}, "output_text must be a function"),
        ({"on_escalate": "allow"}, "on_escalate must be a function"),
        ({"runnable": RunnableLambda(lambda x: x), "on_block": "raise"}, "its answers cannot be checked"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_settings_are_refused_at_construction(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        safe(settings.pop("runnable", ScriptedModel(HARMLESS)), **settings)


def test_a_person_can_allow_or_edit_an_escalated_answer() -> None:
    policy = Policy(rails={"output": {"action": "escalate"}})
    asked: list[tuple[str, str | None]] = []

    def ask(answer: str) -> Any:
        def decide(given: Verdict, check: Check) -> str:
            asked.append((check.text, given.hazard))
            return answer

        return decide

    whole = "".join(HARMFUL)
    for answer, text in (("allow", whole), ("An edited answer.", "An edited answer."), ("block", NO), ("", NO)):
        chain = safe(ScriptedModel(HARMFUL), policy=policy, on_escalate=ask(answer))
        assert chain.invoke("hi").text == text
        streamed = added(list(chain.stream("hi")))
        assert streamed.text == (text if answer == "allow" else "A first sentence here. " + "\n\n" + text)
    assert set(asked) == {(whole, "S9")}
