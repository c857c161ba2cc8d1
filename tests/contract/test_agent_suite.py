"""The public agent suite over ``create_agent`` with the middleware, and over a graph made by hand with the node."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.tools import BaseTool

from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.runnables import ToolPolicy, guard_model, guard_tool
from guardrail_plugin.testing.contract_agents import AGENT_CONTRACT

agents = pytest.importorskip("langchain.agents")
guardrail_langchain = importlib.import_module("guardrail_langchain")


def _clean(saver: Any) -> Any:
    return guardrail_langchain.GuardedSaver(saver, until=["guardrail"])


def with_middleware(model: BaseChatModel, tools: Sequence[BaseTool], guardian: GuardianProtocol, saver: Any) -> Any:
    rails = guardrail_langchain.GuardrailMiddleware(guardian=guardian)
    return agents.create_agent(model, list(tools), middleware=[rails], checkpointer=_clean(saver))


def stacked(model: BaseChatModel, tools: Sequence[BaseTool], guardian: GuardianProtocol, saver: Any) -> Any:
    made = guardrail_langchain.GuardrailMiddleware
    rails = [made(guardian=guardian), made(guardian=guardian, window=2)]
    return agents.create_agent(model, list(tools), middleware=rails, checkpointer=_clean(saver))


def by_hand(model: BaseChatModel, tools: Sequence[BaseTool], guardian: GuardianProtocol, saver: Any) -> Any:
    """Build the usual graph with a guardrail node, a guarded model and guarded tools."""
    from langgraph.graph import END, START, MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode, tools_condition

    safe = guard_model(model, guardian=guardian, tools=ToolPolicy()).bind_tools(list(tools))

    def call(state: MessagesState) -> dict[str, Any]:
        return {"messages": [safe.invoke(state["messages"])]}

    async def acall(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await safe.ainvoke(state["messages"])]}

    from langchain_core.runnables import RunnableLambda

    node = guardrail_langchain.guardrail_node(guardian=guardian, then="model")
    graph = StateGraph(MessagesState)
    graph.add_node("guardrail", node, destinations=("model", END))
    graph.add_node("model", RunnableLambda(call, acall))
    graph.add_node("tools", ToolNode([guard_tool(tool, guardian=guardian) for tool in tools]))
    graph.add_edge(START, "guardrail")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    return graph.compile(checkpointer=_clean(saver))


@pytest.mark.parametrize("name", AGENT_CONTRACT)
@pytest.mark.parametrize("build", [with_middleware, stacked, by_hand])
async def test_guarded_agents_keep_the_contract(build: Any, name: str) -> None:
    await AGENT_CONTRACT[name](build)
