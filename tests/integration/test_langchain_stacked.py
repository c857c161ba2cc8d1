"""Several middlewares around one agent: what leaves was judged by each of them, whoever is asked about it."""

from __future__ import annotations

import gc
import importlib
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool

from guardrail_plugin import Policy
from guardrail_plugin.testing import ScriptedGuardian, ScriptedModel, verdict

agents = pytest.importorskip("langchain.agents")
middleware = pytest.importorskip("langchain.agents.middleware")
memory = pytest.importorskip("langgraph.checkpoint.memory")
types = pytest.importorskip("langgraph.types")
guardrail_langchain = importlib.import_module("guardrail_langchain")
Guardrail = guardrail_langchain.GuardrailMiddleware

DONE = ("All is ", "done now.")
THREAD: Any = {"configurable": {"thread_id": "t"}}
ASKED, FORBIDDEN = "a secret", "a bomb"
BOTH = f"Here is {ASKED} and {FORBIDDEN}."
WAYS = pytest.mark.parametrize("way", ["invoke", "ainvoke"])
ORDER: Any = {"name": "read", "args": '{"q": "x"}', "id": "c", "index": 0}
CALL = AIMessageChunk(content="", tool_call_chunks=[ORDER])


def asking(**settings: Any) -> Any:
    guardian = ScriptedGuardian({ASKED: verdict(risk=0.9, hazard="S7")}, guardian_id="asks")
    return Guardrail(guardian=guardian, policy=Policy(hazards={"S7": {"action": "escalate"}}), **settings)


def blocking() -> Any:
    return Guardrail(guardian=ScriptedGuardian({FORBIDDEN: verdict(risk=0.9, hazard="S1")}, guardian_id="blocks"))


def reading(text: str) -> Any:
    @tool
    def read(q: str) -> str:
        """Read a page."""
        return text

    return read


class Other(middleware.AgentMiddleware):  # type: ignore[name-defined, misc]
    """Asks a model, and makes calls, of its own."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return handler(request.override(model=ScriptedModel([self._text])))

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        return await handler(request.override(model=ScriptedModel([self._text])))


class Calling(Other):
    """Makes calls of its own."""

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return handler(request)

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        return await handler(request)

    def wrap_tool_call(self, request: Any, handler: Any) -> Any:
        return ToolMessage(self._text, tool_call_id=request.tool_call["id"], name="read")

    async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
        return ToolMessage(self._text, tool_call_id=request.tool_call["id"], name="read")


async def step(graph: Any, way: str, value: Any) -> Any:
    return graph.invoke(value, THREAD) if way == "invoke" else await graph.ainvoke(value, THREAD)


async def answered(way: str, rails: list[Any], text: str, *, output: bool) -> tuple[Any, int]:
    """Return the state after all questions were answered with "allow", and how many these were."""
    model = ScriptedModel([CALL], DONE) if output else ScriptedModel([text])
    graph = agents.create_agent(
        model, [reading(text)] if output else [], middleware=rails, checkpointer=memory.InMemorySaver()
    )
    state, questions = await step(graph, way, {"messages": [HumanMessage("hi")]}), 0
    while "__interrupt__" in state:
        questions += 1
        state = await step(graph, way, types.Command(resume="allow"))
    assert FORBIDDEN not in repr([state, model.asked])
    assert guardrail_langchain.held_messages(graph.get_state(THREAD).values) == {}
    return state, questions


@WAYS
@pytest.mark.parametrize("output", [False, True], ids=["answer", "tool output"])
@pytest.mark.parametrize("last", [False, True], ids=["the first asks", "the last asks"])
async def test_nothing_that_one_blocks_leaves_by_what_a_person_allows_of_the_other(
    way: str, output: bool, last: bool
) -> None:
    rails = [blocking(), asking()] if last else [asking(), blocking()]
    _, questions = await answered(way, rails, BOTH, output=output)
    assert questions == 0
    state, questions = await answered(way, rails, f"Here is {ASKED}.", output=output)
    assert questions == int(last)
    assert (ASKED in repr(state["messages"])) == last


@WAYS
@pytest.mark.parametrize("output", [False, True], ids=["answer", "tool output"])
async def test_whoever_decides_at_once_is_asked_wherever_they_stand(way: str, output: bool) -> None:
    rails = [asking(on_escalate=lambda verdict, check: "allow"), blocking()]
    state, _ = await answered(way, rails, f"Here is {ASKED}.", output=output)
    assert ASKED in repr(state["messages"])
    await answered(way, rails, BOTH, output=output)


@WAYS
@pytest.mark.parametrize("output", [False, True], ids=["answer", "tool output"])
async def test_what_one_alone_has_seen_waits_for_nobody(way: str, output: bool) -> None:
    rails = [blocking(), asking(), Calling(BOTH)] if output else [blocking(), Other(BOTH), asking()]
    state, questions = await answered(way, rails, "never", output=output)
    assert questions == 0
    assert ASKED not in repr(state)


def test_nothing_of_a_run_is_kept() -> None:
    class Kept(HumanMessage):
        """Found among all objects."""

    used, rails = reading("fine"), [asking(), blocking()]
    for _ in range(3):
        graph = agents.create_agent(ScriptedModel([CALL], DONE), [used], middleware=rails)
        graph.invoke({"messages": [Kept(content="hi")]})
    del graph
    gc.collect()
    assert not [found for found in gc.get_objects() if type(found) is Kept]
