"""``on_escalate`` at the input: a person allows, blocks, or writes what goes on, in every form of input."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.prompt_values import ChatPromptValue, StringPromptValue
from langchain_core.runnables import RunnableLambda, RunnablePassthrough

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import ConfigError, InputError
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.core.verdict import Verdict
from guardrail_plugin.runnables import guard
from guardrail_plugin.testing import ScriptedGuardian, verdict

NO = "I can't help with that."
POLICY = Policy(rails={"input": {"action": "escalate"}})
ECHO = RunnableLambda(lambda value: value)


def chain(answer: Any, **settings: Any) -> Any:
    rule = {"BOMB": verdict(risk=0.9, hazard="S9")}
    given = {"policy": POLICY, "on_escalate": lambda *_: answer, "output_type": str, **settings}
    return guard(ECHO, guardian=ScriptedGuardian(rule, respond=NO), **given)


@pytest.mark.parametrize(
    ("answer", "output"),
    [("allow", "BOMB"), ("block", NO), ("edited", "edited"), ("", NO), (" ", NO), (None, NO), (True, NO), (7, NO)],
    ids=repr,
)
async def test_what_a_person_says_counts_on_every_path(answer: Any, output: str) -> None:
    safe = chain(answer)
    assert safe.invoke("BOMB") == await safe.ainvoke("BOMB") == output
    assert safe.batch(["hi", "BOMB"]) == await safe.abatch(["hi", "BOMB"]) == ["hi", output]
    assert list(safe.stream("BOMB")) == [c async for c in safe.astream("BOMB")] == [output]


SYSTEM, EARLIER, REPLY = SystemMessage("Be brief."), HumanMessage("Hello"), AIMessage("Hello!")


@pytest.mark.parametrize(
    ("value", "expected", "input_key"),
    [
        ("BOMB", "edited", None),
        (HumanMessage("BOMB", id="1"), HumanMessage("edited", id="1"), None),
        (
            [SYSTEM, EARLIER, REPLY, HumanMessage("a BOMB", id="1")],
            [SYSTEM, EARLIER, REPLY, HumanMessage("edited", id="1")],
            None,
        ),
        ([HumanMessage("a BOMB"), HumanMessage("Please!")], [HumanMessage("edited")], None),
        (
            [SYSTEM, HumanMessage("BOMB"), AIMessage("Sure:")],
            [SYSTEM, HumanMessage("edited"), AIMessage("Sure:")],
            None,
        ),
        ([("system", "Be brief."), ("human", "BOMB")], [("system", "Be brief."), HumanMessage("edited")], None),
        ([{"role": "user", "content": "BOMB"}], [{"role": "user", "content": "edited"}], None),
        (StringPromptValue(text="BOMB"), StringPromptValue(text="edited"), None),
        (
            ChatPromptValue(messages=[SYSTEM, HumanMessage("BOMB")]),
            ChatPromptValue(messages=[SYSTEM, HumanMessage("edited")]),
            None,
        ),
        ({"question": "BOMB", "context": "x"}, {"question": "edited", "context": "x"}, None),
        ({"topic": "BOMB", "words": 50}, {"topic": "edited", "words": 50}, None),
        ({"a": "BOMB", "b": "x"}, {"a": "edited", "b": "x"}, "a"),
        ({"messages": [HumanMessage("BOMB")]}, {"messages": [HumanMessage("edited")]}, None),
        ([HumanMessage("hi", name="how to BOMB")], [HumanMessage("edited")], None),
        ([{"role": "user", "content": "hi", "name": "a BOMB"}], [{"role": "user", "content": "edited"}], None),
    ],
)
def test_an_edited_text_takes_the_place_of_the_user_turn(value: Any, expected: Any, input_key: Any) -> None:
    safe = chain("edited", input_key=input_key, on_block="raise")
    assert safe.invoke(value) == expected
    assert value != expected  # the caller's own input is left as it was


def test_where_an_edited_text_cannot_be_written_the_call_does_not_go_on() -> None:
    safe = chain("edited", input_key=lambda value: value["x"])
    with pytest.raises(InputError, match="pass a key"):
        safe.invoke({"x": "BOMB"})
    assert [type(o) for o in safe.batch([{"x": "BOMB"}, {"x": "hi"}], return_exceptions=True)] == [InputError, dict]


async def test_async_callbacks_decide_in_async_calls_and_plain_ones_leave_the_loop_free() -> None:
    async def aask(given: Verdict, check: Check) -> str:
        await asyncio.sleep(0)
        return f"{check.text} {given.hazard}"

    assert await chain(None, on_escalate=aask).ainvoke("BOMB") == "BOMB S9"
    with pytest.raises(ConfigError, match="on_escalate is async"):
        chain(None, on_escalate=aask).invoke("BOMB")
    loops: list[bool] = []

    def ask(*_: object) -> str:
        loops.append(threading.current_thread() is threading.main_thread())
        return "allow"

    assert await chain(None, on_escalate=ask).ainvoke("BOMB") == "BOMB"
    assert loops == [False]


async def test_a_person_is_asked_though_all_threads_of_the_loop_are_busy() -> None:
    free = threading.Event()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    busy = asyncio.create_task(asyncio.to_thread(free.wait, 5.0))
    await asyncio.sleep(0)
    safe: Any = guard(
        RunnablePassthrough(), guardian=ScriptedGuardian({"BOMB": verdict(risk=0.9, hazard="S9")}), policy=POLICY,
        output_type=str, on_escalate=lambda *_: "allow",
    )  # fmt: skip
    try:
        assert await asyncio.wait_for(safe.ainvoke("BOMB"), 2.0) == "BOMB"
    finally:
        free.set()
        await busy


async def test_who_leaves_does_not_wait_for_the_person() -> None:
    asked, answered = threading.Event(), threading.Event()

    def ask(*_: object) -> str:
        asked.set()
        answered.wait(5.0)
        return "allow"

    call = asyncio.create_task(chain(None, on_escalate=ask).ainvoke("BOMB"))
    await asyncio.to_thread(asked.wait, 5.0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    answered.set()


def test_what_the_callback_raises_passes() -> None:
    def ask(*_: object) -> str:
        raise LookupError("nobody is there")

    with pytest.raises(LookupError):
        chain(None, on_escalate=ask).invoke("BOMB")


def test_blocks_and_harmless_inputs_ask_nobody() -> None:
    def ask(*_: object) -> str:
        raise AssertionError("asked")

    assert chain(None, on_escalate=ask).invoke("hi") == "hi"
    assert chain(None, on_escalate=ask, policy=Policy()).invoke("BOMB") == NO
