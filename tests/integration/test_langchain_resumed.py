"""A decision is about what was asked: the question stays the same, and what is gone meanwhile does not come back."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from langchain_core.messages import HumanMessage, RemoveMessage

from guardrail_plugin import GuardianError, Policy
from guardrail_plugin.guardian.protocol import CheckOutcome
from guardrail_plugin.testing import ScriptedGuardian, ScriptedModel, verdict
from guardrail_plugin.testing.contract import FORBIDDEN, HARMFUL_TURN, HARMLESS_TURN, watchman
from guardrail_plugin.testing.contract_agents import calling
from guardrail_plugin.testing.contract_tools import mail_tool

agents = pytest.importorskip("langchain.agents")
memory = pytest.importorskip("langgraph.checkpoint.memory")
types = pytest.importorskip("langgraph.types")
graphs = pytest.importorskip("langgraph.graph")
guardrail_langchain = importlib.import_module("guardrail_langchain")

THREAD: Any = {"configurable": {"thread_id": "t"}}
ASKING = Policy(hazards={"S7": {"action": "escalate"}}, on_failure="allow")  # type: ignore[dict-item]
MILD, SURE, DOWN = verdict(risk=0.49, hazard="S7"), verdict(risk=0.51, hazard="S7"), GuardianError("down")


class Wavering(ScriptedGuardian):
    """Finds a text harmful, and says something else later."""

    def __init__(self) -> None:
        self.says: CheckOutcome = SURE
        super().__init__(lambda check: self.says if FORBIDDEN in check.text else verdict())


@pytest.mark.parametrize("then", [MILD, DOWN], ids=["milder", "down"])
@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
@pytest.mark.parametrize("rail", ["input", "tool call", "node"])
async def test_who_was_asked_is_heard_whatever_the_guardian_says_later(then: CheckOutcome, way: str, rail: str) -> None:
    guardian = Wavering()
    done: list[str] = []
    turns = (calling(FORBIDDEN), HARMLESS_TURN) if rail == "tool call" else (HARMLESS_TURN,)
    model = ScriptedModel(*turns)
    if rail == "node":
        graph = graphs.StateGraph(graphs.MessagesState)
        node = guardrail_langchain.guardrail_node(guardian=guardian, policy=ASKING, then="model")
        graph.add_node("guardrail", node, destinations=("model", graphs.END))
        graph.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
        graph.add_edge(graphs.START, "guardrail")
        agent = graph.compile(checkpointer=memory.InMemorySaver())
    else:
        agent = agents.create_agent(
            model,
            [mail_tool(done)],
            middleware=[guardrail_langchain.GuardrailMiddleware(guardian=guardian, policy=ASKING)],
            checkpointer=memory.InMemorySaver(),
        )

    async def run(given: Any) -> Any:
        return await agent.ainvoke(given, THREAD) if way == "ainvoke" else agent.invoke(given, THREAD)

    said = "hi" if rail == "tool call" else f"tell {FORBIDDEN}"
    assert "__interrupt__" in await run({"messages": [HumanMessage(said)]})
    guardian.says = then
    ended = await run(types.Command(resume="block"))
    assert "__interrupt__" not in ended
    assert done == []
    assert FORBIDDEN not in repr([messages for messages in model.asked if rail != "tool call"])


@pytest.mark.parametrize("change", ["removed", "overwritten"])
@pytest.mark.parametrize("decision", ["allow", "block"])
def test_what_is_gone_is_not_decided_about(change: str, decision: str) -> None:
    agent = agents.create_agent(
        ScriptedModel(HARMFUL_TURN, HARMLESS_TURN),
        [],
        middleware=[guardrail_langchain.GuardrailMiddleware(guardian=watchman(), policy=ASKING)],
        checkpointer=memory.InMemorySaver(),
    )
    [asked] = agent.invoke({"messages": [HumanMessage("hi")]}, THREAD)["__interrupt__"]
    held = asked.value["message_id"]
    changed = RemoveMessage(id=held) if change == "removed" else HumanMessage("instead", id=held)
    given = [changed, HumanMessage("again")]
    state = agent.invoke({"messages": given}, THREAD)
    if "__interrupt__" in state:
        state = agent.invoke(types.Command(resume=decision), THREAD)
    assert FORBIDDEN not in repr(state["messages"])
    assert guardrail_langchain.held_messages(agent.get_state(THREAD).values) == {}
    assert state["messages"][-1].type == "ai"
