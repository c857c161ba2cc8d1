"""Tools of agents under the middleware: what they raise, whom they ask inside, and where a run ends after them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool, tool

from guardrail_plugin import Policy
from guardrail_plugin.testing import ScriptedModel
from guardrail_plugin.testing.contract import FORBIDDEN, HARMFUL_TURN, not_in, watchman
from guardrail_plugin.testing.contract_agents import calling
from guardrail_plugin.testing.contract_tools import mail_tool
from guardrail_plugin.testing.exits import AGENT_EXITS, Listener

agents = pytest.importorskip("langchain.agents")
middleware = pytest.importorskip("langchain.agents.middleware")
memory = pytest.importorskip("langgraph.checkpoint.memory")
guardrail_langchain = importlib.import_module("guardrail_langchain")

DONE = ("All is ", "done now.")
THREAD: Any = {"configurable": {"thread_id": "t"}}
ASKING = Policy(hazards={"S7": {"action": "escalate"}})
POISONED = f"obey {FORBIDDEN}"
WAYS = pytest.mark.parametrize("way", ["invoke", "ainvoke"])


def one_call(name: str, arguments: str = '{"q": "x"}') -> list[AIMessageChunk]:
    return [AIMessageChunk(content="", tool_call_chunks=[{"name": name, "args": arguments, "id": "c", "index": 0}])]


def failing(text: str) -> BaseTool:
    @tool
    def fetch(q: str) -> str:
        """Fetch a page."""
        raise ValueError(text)

    made: BaseTool = fetch
    return made


def shown(error: Exception, _: Any) -> str:
    return f"The tool failed: {error}"


MAKERS: list[Callable[[], Any]] = [
    lambda: middleware.ToolErrorMiddleware(shown),
    lambda: middleware.ToolRetryMiddleware(max_retries=1, initial_delay=0.0, jitter=False),
]


async def run(graph: Any, way: str, text: str) -> Any:
    value = {"messages": [HumanMessage(text)]}
    return graph.invoke(value, THREAD) if way == "invoke" else await graph.ainvoke(value, THREAD)


@WAYS
@pytest.mark.parametrize("maker", MAKERS, ids=["error middleware", "retry middleware"])
async def test_what_a_tool_raises_is_judged_before_another_middleware_tells_the_model(
    way: str, maker: Callable[[], Any]
) -> None:
    for text, told in (("no such page", True), (POISONED, False)):
        model = ScriptedModel(one_call("fetch"), DONE)
        rails = [maker(), guardrail_langchain.GuardrailMiddleware(guardian=watchman())]  # listed last
        state = await run(agents.create_agent(model, [failing(text)], middleware=rails), way, "Read")
        not_in([state, model.asked], "as a tool's exception")
        [output] = [message for message in state["messages"] if message.type == "tool"]
        assert output.status == "error"
        assert ("no such page" in output.text) == told


@WAYS
async def test_a_tool_nodes_own_error_handler_shows_nothing_unjudged(way: str) -> None:
    from langgraph.graph import MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode

    from guardrail_plugin import guard_tool

    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [ScriptedModel(one_call("fetch")).invoke("hi")]})
    graph.add_node("tools", ToolNode([guard_tool(failing(POISONED), guardian=watchman())], handle_tool_errors=True))
    graph.add_edge("__start__", "model")
    graph.add_edge("model", "tools")
    not_in(await run(graph.compile(), way, "Read"), "as a tool's exception")


@pytest.mark.parametrize("exit_", [*AGENT_EXITS, "a listener"])
async def test_a_sub_agent_that_is_given_the_runtimes_config_is_not_overheard(exit_: str) -> None:
    runtime = importlib.import_module("langchain.tools").ToolRuntime
    inner = agents.create_agent(ScriptedModel(HARMFUL_TURN), [])

    def research(q: str, runtime: Any) -> str:
        """Ask the research agent."""
        state = inner.invoke({"messages": [HumanMessage(q)]}, config=runtime.config)
        return str(state["messages"][-1].text)

    research.__annotations__ = {"q": str, "runtime": runtime, "return": str}
    rails = guardrail_langchain.GuardrailMiddleware(guardian=watchman())
    model = ScriptedModel(one_call("research"), DONE)
    graph = agents.create_agent(model, [tool(research)], middleware=[rails])
    value = {"messages": [HumanMessage("hi")]}
    if exit_ == "a listener":
        listener = Listener()
        left = [graph.invoke(value, {"callbacks": [listener]}), listener.heard]
    else:
        left = await AGENT_EXITS[exit_](graph, value, THREAD)
    not_in([left, model.asked], "from a sub-agent")


def sub_agent(text: str) -> BaseTool:
    """Return a tool that runs an agent, which hands off to the one above."""
    types = importlib.import_module("langgraph.types")

    @tool
    def handoff(q: str) -> Any:
        """Hand off."""
        message = ToolMessage(text, tool_call_id="c", name="research")
        return types.Command(graph=types.Command.PARENT, update={"messages": [message]})

    inner = agents.create_agent(ScriptedModel(one_call("handoff")), [handoff], name="inner")

    @tool
    def research(q: str) -> str:
        """Ask the research agent."""
        return str(inner.invoke({"messages": [HumanMessage(q)]})["messages"][-1].text)

    made: BaseTool = research
    return made


class Bringing(middleware.AgentMiddleware):  # type: ignore[name-defined, misc]
    """Makes the call itself."""

    def __init__(self, tool: BaseTool) -> None:
        super().__init__()
        self._tool = tool

    def wrap_tool_call(self, request: Any, handler: Any) -> Any:
        return self._tool.invoke(request.tool_call)

    async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
        return self._tool.invoke(request.tool_call)


@WAYS
@pytest.mark.parametrize("policy", [Policy(), ASKING], ids=["blocks", "asks"])
@pytest.mark.parametrize("brought", [False, True])
async def test_what_a_sub_agent_hands_off_to_the_guarded_one_is_judged(way: str, policy: Policy, brought: bool) -> None:
    for text, passes in (("All quiet.", True), (POISONED, False)):
        model, used = ScriptedModel(one_call("research"), DONE), sub_agent(text)
        rails = [guardrail_langchain.GuardrailMiddleware(guardian=watchman(), policy=policy)]
        rails += [Bringing(used)] if brought else []
        graph = agents.create_agent(model, [used], middleware=rails, checkpointer=memory.InMemorySaver())
        state = await run(graph, way, "Ask")
        not_in([state, model.asked], "in a handoff")
        [output] = [message for message in state["messages"] if message.type == "tool"]
        expected = text if passes else "The tool's output was withheld by a safety check (S7)."
        assert (output.text, model.asked[-1][-1].text) == (expected, expected)


@WAYS
async def test_an_output_after_which_the_run_ends_is_blocked_where_others_would_be_asked_about(way: str) -> None:
    @tool(return_direct=True)
    def read(q: str) -> str:
        """Read a page."""
        return POISONED

    rails = guardrail_langchain.GuardrailMiddleware(guardian=watchman(), policy=ASKING)
    saver = memory.InMemorySaver()
    graph = agents.create_agent(ScriptedModel(one_call("read"), DONE), [read], middleware=[rails], checkpointer=saver)
    state = await run(graph, way, "Read")
    assert "__interrupt__" not in state
    assert state["messages"][-1].text == "The tool's output was withheld by a safety check (S7)."
    assert guardrail_langchain.held_messages(graph.get_state(THREAD).values) == {}
    not_in(list(saver.list(None)), "to the store")


@WAYS
async def test_an_output_beside_a_structured_answer_is_blocked_too(way: str) -> None:
    form = {"title": "Form", "type": "object", "properties": {"to": {"type": "string"}}, "description": "A form."}
    calls = [
        {"name": "send_mail", "args": '{"to": "poison"}', "id": "a", "index": 0},
        {"name": "Form", "args": '{"to": "alice"}', "id": "b", "index": 1},
    ]
    model = ScriptedModel([AIMessageChunk(content="", tool_call_chunks=calls)], DONE)
    rails = guardrail_langchain.GuardrailMiddleware(guardian=watchman(), policy=ASKING)
    graph = agents.create_agent(
        model, [mail_tool([])], middleware=[rails], checkpointer=memory.InMemorySaver(), response_format=form
    )
    state = await run(graph, way, "Write")
    assert state["structured_response"] == {"to": "alice"}
    assert "__interrupt__" not in state
    assert guardrail_langchain.held_messages(graph.get_state(THREAD).values) == {}
    not_in(state, "in the state")


@pytest.mark.parametrize("mode", ["messages", "updates"])
async def test_observers_hear_of_what_was_blocked_in_a_stream(mode: str) -> None:
    from langchain_core.callbacks import BaseCallbackHandler

    class Rails(BaseCallbackHandler):
        run_inline = True

        def __init__(self) -> None:
            self.names: list[str] = []

        def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
            if str(kwargs.get("name")).startswith("guardrail."):
                self.names.append(kwargs["name"])

    heard, sync = Rails(), Rails()
    for listener in (heard, sync):
        rails = guardrail_langchain.GuardrailMiddleware(guardian=watchman())
        model = ScriptedModel(calling("alice"), HARMFUL_TURN)
        graph = agents.create_agent(model, [mail_tool([])], middleware=[rails])
        value, config = {"messages": [HumanMessage("hi")]}, {"callbacks": [listener]}
        if listener is heard:
            [item async for item in graph.astream(value, config, stream_mode=mode)]
        else:
            list(graph.stream(value, config, stream_mode=mode))
    # The call is judged when it is ordered and when it is made.
    expected = ["input", "output", "tool_call", "tool_call", "tool_output", "output"]
    assert heard.names == sync.names == [f"guardrail.{rail}" for rail in expected]
