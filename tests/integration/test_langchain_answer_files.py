"""In an agent, images and files in an answer leave only where ``on_uncheckable`` lets them."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import AIMessageChunk, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from guardrail_langchain import GuardrailMiddleware
from guardrail_plugin import Policy
from guardrail_plugin.testing import ScriptedGuardian, ScriptedModel, verdict

PIXELS = "iVBORw0KGgoAAAANSUhEUgAA"
IMAGE = {"type": "image", "base64": PIXELS, "mime_type": "image/png"}
NO = "holds an image or file"
ASKED: Any = {"messages": [HumanMessage("hi")]}


def agent(text: str = "Look here. ", *others: Any, **settings: Any) -> Any:
    said = [AIMessageChunk(content=[{"type": "text", "text": text}]), AIMessageChunk(content=[IMAGE])]
    guardian = ScriptedGuardian({"BOMB": verdict(risk=0.9, hazard="S9")}, respond="No.")
    rail = GuardrailMiddleware(guardian=guardian, **settings)
    return create_agent(ScriptedModel(said), [], middleware=[rail, *others], checkpointer=InMemorySaver())


def config(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}}


@pytest.mark.parametrize("mode", ["values", "messages", "updates"])
async def test_an_image_leaves_no_agent_unless_it_may(mode: str) -> None:
    for allowed in (False, True):
        graph = agent(on_uncheckable="allow" if allowed else "block")
        left: list[Any] = [graph.invoke(ASKED, config("a")), await graph.ainvoke(ASKED, config("b"))]
        left.append(list(graph.stream(ASKED, config("c"), stream_mode=mode)))
        left.append([item async for item in graph.astream(ASKED, config("d"), stream_mode=mode)])
        left.append([event async for event in graph.astream_events(ASKED, config("e"), version="v2")])
        for said in left:
            assert (PIXELS in repr(said)) is allowed
            assert (NO in repr(said)) is not allowed


def test_an_image_does_not_wait_for_a_person_who_is_shown_the_text() -> None:
    policy = Policy(rails={"output": {"action": "escalate"}})
    state = agent("The BOMB. ", policy=policy).invoke(ASKED, config("a"))
    assert "__interrupt__" not in state
    assert PIXELS not in repr(state)
    state = agent("The BOMB. ", policy=policy, on_uncheckable="allow").invoke(ASKED, config("a"))
    assert "__interrupt__" in state


class Showing(AgentMiddleware):
    """Puts an image into an answer, and leaves its text and its id."""

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        response = handler(request)
        response.result = [
            message.model_copy(update={"content": [{"type": "text", "text": message.text}, IMAGE]})
            for message in response.result
        ]
        return response


def test_an_image_that_another_middleware_added_is_withheld() -> None:
    guardian = ScriptedGuardian({}, respond="No.")
    rails: list[AgentMiddleware[Any, Any, Any]] = [GuardrailMiddleware(guardian=guardian), Showing()]
    graph: Any = create_agent(ScriptedModel(["Fine."]), [], middleware=rails)
    state = graph.invoke(ASKED)
    assert PIXELS not in repr(state)
    assert NO in state["messages"][-1].text
