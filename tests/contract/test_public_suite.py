"""The public contract suites over our own wrappers, and over others that break them: the suites can fail."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.prompt_values import ChatPromptValue
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tools import BaseTool

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import GuardianError
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.guardian.protocol import CheckOutcome, GuardianProtocol
from guardrail_plugin.runnables import guard, guard_tool
from guardrail_plugin.testing import ScriptedGuardian, verdict
from guardrail_plugin.testing.contract import RUNNABLE_CONTRACT, report
from guardrail_plugin.testing.contract_agents import AGENT_CONTRACT
from guardrail_plugin.testing.contract_tools import TOOL_CONTRACT

AnyRunnable = Runnable[Any, Any]

DOWN = "a_guardian_that_is_down_blocks"

SPECULATIVE = ("chain_never_ran_when_blocked", DOWN, "rest_of_stream_is_cancelled")
"""A speculative chain runs; in sync calls the thread that reads it closes it when the next chunk has come."""


def plain(chain: AnyRunnable, guardian: GuardianProtocol) -> AnyRunnable:
    return guard(chain, guardian=guardian, rails=("input", "output"))


def piped(chain: AnyRunnable, guardian: GuardianProtocol) -> AnyRunnable:
    return RunnableLambda(lambda value: value) | plain(chain, guardian)


def words(chain: AnyRunnable, guardian: GuardianProtocol) -> AnyRunnable:
    return guard(chain, guardian=guardian, rails=("input", "output"), window=2)


def twice(chain: AnyRunnable, guardian: GuardianProtocol) -> AnyRunnable:
    return plain(plain(chain, guardian), guardian)


def overlapping(chain: AnyRunnable, guardian: GuardianProtocol) -> AnyRunnable:
    return guard(chain, guardian=guardian, rails=("input", "output"), overlap=True)


@pytest.mark.parametrize("name", RUNNABLE_CONTRACT)
@pytest.mark.parametrize("wrap", [plain, piped, words, twice])
async def test_guarded_chains_keep_the_contract(wrap: Any, name: str) -> None:
    await RUNNABLE_CONTRACT[name](wrap)


@pytest.mark.parametrize("name", [name for name in RUNNABLE_CONTRACT if name not in SPECULATIVE])
async def test_overlapping_guards_keep_it_but_for_starting_the_chain(name: str) -> None:
    await RUNNABLE_CONTRACT[name](overlapping)


@pytest.mark.parametrize("name", TOOL_CONTRACT)
async def test_guarded_tools_keep_the_contract(name: str) -> None:
    await TOOL_CONTRACT[name](lambda tool, guardian: guard_tool(tool, guardian=guardian))


async def test_an_input_rail_alone_breaks_what_it_does_not_do() -> None:
    found = await report(RUNNABLE_CONTRACT, lambda chain, guardian: guard(chain, guardian=guardian))
    assert {name for name, broken in found.items() if broken} == {
        "no_unchecked_character_leaves",
        "blocked_answer_is_replaced",
        "rest_of_stream_is_cancelled",
        "a_guardian_that_is_down_blocks",
    }
    assert found["no_unchecked_character_leaves"] == "the forbidden text left by invoke"


async def test_a_bare_chain_and_a_bare_tool_break_nearly_everything() -> None:
    found = await report(RUNNABLE_CONTRACT, lambda chain, _: chain)
    assert sum(broken is None for broken in found.values()) == 3  # it passes answers on, runs nothing, mixes nothing
    bare = await report(TOOL_CONTRACT, lambda tool, _: tool)
    assert bare["tool_did_not_run"] == "invoke: the tool ran on harmful arguments"
    assert bare["poisoned_output_is_withheld"] == "the forbidden text left by invoke"


async def test_a_wrapper_whose_chain_never_runs_is_reported_and_not_waited_for() -> None:
    name = "nothing_is_left_running"

    def stuck(chain: AnyRunnable, guardian: GuardianProtocol) -> AnyRunnable:
        inner = chain if isinstance(chain, BaseChatModel) else RunnableLambda(lambda _: AIMessage("no"))
        return guard(inner, guardian=guardian, output_type=AIMessage)

    found = await asyncio.wait_for(report({name: RUNNABLE_CONTRACT[name]}, stuck), 20.0)
    assert found[name] == "a harmless call never reached the chain"


def _is_messages(value: object) -> bool:
    return isinstance(value, list)


def _is_blocks(value: object) -> bool:
    return isinstance(value, list) and isinstance(value[0].content, list)


def _is_prompt(value: object) -> bool:
    return isinstance(value, ChatPromptValue)


@pytest.mark.parametrize(
    ("unseen", "form"), [(_is_messages, "messages"), (_is_blocks, "text blocks"), (_is_prompt, "a prompt value")]
)
async def test_a_wrapper_that_is_blind_to_a_form_of_input_is_reported(
    unseen: Callable[[object], bool], form: str
) -> None:
    def blind(chain: AnyRunnable, guardian: GuardianProtocol) -> AnyRunnable:
        def judged(value: object) -> object:
            return "hello" if unseen(value) else value

        return guard(chain, guardian=guardian, rails=("input", "output"), input_key=judged)

    found = await report(RUNNABLE_CONTRACT, blind)
    assert {name: broken for name, broken in found.items() if broken} == {
        "chain_never_ran_when_blocked": f"invoke: the chain ran on a blocked input, given as {form}"
    }


async def test_a_wrapper_that_takes_texts_alone_keeps_the_contract_in_that_form() -> None:
    def of_texts(chain: AnyRunnable, guardian: GuardianProtocol) -> AnyRunnable:
        return RunnableLambda(str.strip) | plain(chain, guardian)

    await RUNNABLE_CONTRACT["chain_never_ran_when_blocked"](of_texts)


def lenient(guardian: GuardianProtocol, rail: str) -> GuardianProtocol:
    """Take a missing verdict for a harmless one, on one rail."""

    def answer(check: Check) -> CheckOutcome:
        [outcome] = guardian.check_many([check])
        return verdict() if check.rail == rail and isinstance(outcome, GuardianError) else outcome

    return ScriptedGuardian(answer)


@pytest.mark.parametrize(
    ("rail", "broken"),
    [
        ("tool_call", "the tool ran without a verdict on its arguments"),
        ("tool_output", "tool output left without a verdict"),
    ],
)
async def test_a_tool_that_fails_open_on_one_rail_is_reported(rail: str, broken: str) -> None:
    found = await report(TOOL_CONTRACT, lambda tool, guardian: guard_tool(tool, guardian=lenient(guardian, rail)))
    assert {name: why for name, why in found.items() if why} == {DOWN: f"invoke: {broken}"}


@pytest.mark.parametrize(
    ("on_failure", "broken"), [("allow", "invoke: the tool ran without a verdict on its arguments"), ("raise", None)]
)
async def test_a_tool_may_raise_without_a_verdict_but_not_run(
    on_failure: Literal["allow", "raise"], broken: str | None
) -> None:
    def wrap(tool: BaseTool, guardian: GuardianProtocol) -> BaseTool:
        return guard_tool(tool, guardian=guardian, policy=Policy(on_failure=on_failure))

    assert await report({DOWN: TOOL_CONTRACT[DOWN]}, wrap) == {DOWN: broken}


async def test_the_agent_suite_reports_the_leak_of_langchains_own_pii_middleware() -> None:
    agents = pytest.importorskip("langchain.agents")
    middleware = pytest.importorskip("langchain.agents.middleware")

    def build(model: BaseChatModel, tools: Sequence[BaseTool], _: GuardianProtocol, saver: Any) -> Any:
        redact = middleware.PIIMiddleware(
            "email", strategy="redact", apply_to_input=True, apply_to_output=True, apply_to_tool_results=True
        )
        return agents.create_agent(model, list(tools), middleware=[redact], checkpointer=saver)

    found = await report(AGENT_CONTRACT, build)
    assert found["harmless_runs_pass_unchanged"] is None
    assert found["no_unchecked_token_in_any_stream"] == "the forbidden text left by stream, mode messages"
    assert found["state_is_clean_after_block"] == "the forbidden text left in a checkpoint of invoke"
    assert found["tool_did_not_run"] == "invoke: the tool ran on harmful arguments"
    leak = "the forbidden text left to a store, as a user turn, under invoke"
    assert found["no_checkpoint_holds_a_blocked_text"] == leak


def hand_built(model: BaseChatModel, tools: Sequence[BaseTool], guardian: GuardianProtocol, saver: Any) -> Any:
    """Build the usual two-node graph from a guarded model and guarded tools, without any middleware."""
    from langgraph.graph import MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode, tools_condition

    safe = guard(model.bind_tools(list(tools)), guardian=guardian, rails=("input", "output"), output_type=AIMessage)

    def call(state: MessagesState) -> dict[str, Any]:
        return {"messages": [safe.invoke(state["messages"])]}

    async def acall(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await safe.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("model", RunnableLambda(call, acall))
    graph.add_node("tools", ToolNode([guard_tool(tool, guardian=guardian) for tool in tools]))
    graph.add_edge("__start__", "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    return graph.compile(checkpointer=saver)


OF_THE_GRAPH = (
    "harmless_answers_still_stream",
    "a_blocked_turn_reaches_no_later_call",
    "no_checkpoint_holds_a_blocked_text",
)
"""``guard()`` lets nobody listen to what is inside, and does not change the graph's state; see test_agent_suite."""


@pytest.mark.parametrize("name", [name for name in AGENT_CONTRACT if name not in OF_THE_GRAPH])
async def test_a_graph_with_a_guarded_chain_keeps_what_does_not_concern_its_state(name: str) -> None:
    pytest.importorskip("langgraph")
    await AGENT_CONTRACT[name](hand_built)


@pytest.mark.parametrize(
    ("rail", "broken"),
    [
        ("input", "the model ran without a verdict on the input"),
        ("tool_call", "the tool ran without a verdict on the tool_call"),
        ("tool_output", "the model read tool output without a verdict"),
        ("output", "an answer left without a verdict"),
    ],
)
async def test_an_agent_that_fails_open_on_one_rail_is_reported(rail: str, broken: str) -> None:
    pytest.importorskip("langgraph")

    def build(model: BaseChatModel, tools: Sequence[BaseTool], guardian: GuardianProtocol, saver: Any) -> Any:
        return hand_built(model, tools, lenient(guardian, rail), saver)

    assert await report({DOWN: AGENT_CONTRACT[DOWN]}, build) == {DOWN: f"invoke: {broken}"}


@pytest.mark.parametrize(
    ("on_failure", "broken"), [("allow", "invoke: the model ran without a verdict on the input"), ("raise", None)]
)
async def test_an_agent_may_raise_without_a_verdict_but_not_go_on(
    on_failure: Literal["allow", "raise"], broken: str | None
) -> None:
    agents = pytest.importorskip("langchain.agents")
    rails = importlib.import_module("guardrail_langchain").GuardrailMiddleware

    def build(model: BaseChatModel, tools: Sequence[BaseTool], guardian: GuardianProtocol, saver: Any) -> Any:
        middleware = [rails(guardian=guardian, policy=Policy(on_failure=on_failure))]
        return agents.create_agent(model, list(tools), middleware=middleware, checkpointer=saver)

    assert await report({DOWN: AGENT_CONTRACT[DOWN]}, build) == {DOWN: broken}
