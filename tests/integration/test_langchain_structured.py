"""Structured answers whose form the middleware cannot read off the agent: chosen per call, or without a title."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.tools import BaseTool
from pydantic import BaseModel, PrivateAttr

from guardrail_plugin import ToolPolicy
from guardrail_plugin.testing import ScriptedModel
from guardrail_plugin.testing.contract import FORBIDDEN, SAFEGUARD, not_in, watchman
from guardrail_plugin.testing.contract_tools import mail_tool

agents = pytest.importorskip("langchain.agents")
middleware = pytest.importorskip("langchain.agents.middleware")
guardrail_langchain = importlib.import_module("guardrail_langchain")

UNTITLED = {"type": "object", "description": "A form.", "properties": {"summary": {"type": "string"}}}
WAYS = pytest.mark.parametrize("way", ["invoke", "ainvoke"])


class Report(BaseModel):
    """A report."""

    summary: str


class Note(BaseModel):
    """A note."""

    text: str


class FillsTheForm(ScriptedModel):
    """Calls the last tool that is bound to it, whatever it is called."""

    _summary: str = PrivateAttr()

    def __init__(self, summary: str) -> None:
        super().__init__(("never",))
        self._summary = summary

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        name = [given.name for given in tools if isinstance(given, BaseTool)][-1]
        call = {"name": name, "args": f'{{"summary": "{self._summary}"}}', "id": "r", "index": 0}
        self._turns = [[AIMessageChunk(content="", tool_call_chunks=[call], id="said")]]
        return self


def narrowed(model: Any, guardian: Any, tools: ToolPolicy | None) -> Any:
    """Build an agent whose form a middleware chooses for each call, as LangChain's guide does."""

    class Narrow(middleware.AgentMiddleware):  # type: ignore[misc, name-defined]
        def wrap_model_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
            return handler(request.override(response_format=Report))

        async def awrap_model_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
            return await handler(request.override(response_format=Report))

    rails = guardrail_langchain.GuardrailMiddleware(guardian=guardian, tools=tools)
    return agents.create_agent(model, [mail_tool([])], middleware=[Narrow(), rails], response_format=Note | Report)


def untitled(model: Any, guardian: Any, tools: ToolPolicy | None) -> Any:
    """Build an agent whose form has no title: LangChain makes up a name that ends at random."""
    rails = guardrail_langchain.GuardrailMiddleware(guardian=guardian, tools=tools)
    return agents.create_agent(model, [mail_tool([])], middleware=[rails], response_format=UNTITLED)


@WAYS
@pytest.mark.parametrize("build", [narrowed, untitled])
@pytest.mark.parametrize("tools", [None, ToolPolicy(allow=["send_mail"])], ids=["any tool", "one tool"])
async def test_a_form_of_any_kind_is_judged_as_an_answer(way: str, build: Any, tools: ToolPolicy | None) -> None:
    for summary in ("all well", FORBIDDEN):
        guardian, model = watchman(), FillsTheForm(summary)
        graph, value = build(model, guardian, tools), {"messages": [HumanMessage("Report")]}
        limit = {"recursion_limit": 12}
        state = graph.invoke(value, limit) if way == "invoke" else await graph.ainvoke(value, limit)
        assert model.calls == 1
        [check] = [check for check in guardian.checks if summary in check.text]
        assert (check.rail, check.query) == ("output", "Report")
        if summary == FORBIDDEN:
            not_in(state, "in the state")
            assert state.get("structured_response") is None
            assert state["messages"][-1].text == SAFEGUARD
        else:
            given = state["structured_response"]
            assert (given if isinstance(given, dict) else given.model_dump()) == {"summary": summary}
