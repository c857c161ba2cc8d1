"""Cancellation and LangGraph's control flow behind an output rail: they pass, unless they hold text."""

from __future__ import annotations

import asyncio
import builtins
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from guardrail_plugin import ChainError

from .failing_chains import EVIL, MODEL, PATHS, OwnError, failing, holds, raised, safe, shown


def test_ctrl_c_leaves_a_group_whose_other_errors_quote() -> None:
    kind: Any = getattr(builtins, "BaseExceptionGroup", None)
    if kind is None:
        pytest.skip("no groups before Python 3.11")
    for stop in (KeyboardInterrupt(), asyncio.CancelledError()):
        inner = kind(EVIL, [OwnError(EVIL), stop])
        group = kind(EVIL, [OwnError(EVIL), inner])
        with pytest.raises(type(stop)) as caught:
            safe(MODEL | failing(lambda _, group=group: group)).invoke("hi")
        assert not holds(caught.value)


def test_ctrl_c_passes_after_a_word() -> None:
    for error in (KeyboardInterrupt(), asyncio.CancelledError()):
        with pytest.raises(type(error)):
            safe(MODEL | failing(lambda _, error=error: error)).invoke("hi")


@pytest.mark.parametrize("path", PATHS)
async def test_control_flow_without_text_passes_after_a_word(path: str) -> None:
    errors, types = pytest.importorskip("langgraph.errors"), pytest.importorskip("langgraph.types")
    for error in (
        errors.GraphInterrupt(()),
        errors.GraphInterrupt([types.Interrupt(value=[True, {1: 2.5}, None], id="of the graph")]),
        errors.ParentCommand(None),
        errors.GraphDrained("shutdown"),
    ):
        assert type(await raised(safe(MODEL | failing(lambda _, error=error: error)), path)) is type(error)


@pytest.mark.parametrize("path", PATHS)
async def test_control_flow_with_text_becomes_a_chain_error_that_says_what_to_do(path: str) -> None:
    errors, types = pytest.importorskip("langgraph.errors"), pytest.importorskip("langgraph.types")
    said = OwnError(EVIL)
    for error in (
        errors.GraphInterrupt([types.Interrupt(value={"draft": EVIL})]),
        errors.GraphInterrupt([types.Interrupt(value={EVIL: True})]),
        errors.GraphInterrupt([types.Interrupt(value=said)]),
        errors.GraphInterrupt([types.Interrupt(value=True, response_schema={"enum": [EVIL]})]),
        errors.NodeInterrupt(EVIL),
        errors.ParentCommand(types.Command(graph=types.Command.PARENT, update={"messages": [EVIL]})),
    ):
        for chain in (MODEL | failing(lambda _, error=error: error), failing(lambda _, error=error: error)):
            told = await raised(safe(RunnableLambda(str) | chain), path)
            assert isinstance(told, ChainError)
            assert told.kind == type(error).__name__
            assert not holds(told)
            assert "guardrail_node or GuardrailMiddleware inside it" in str(told)


def test_a_guarded_graph_in_a_graph_hands_no_answer_past_the_rail() -> None:
    graphs, types = pytest.importorskip("langgraph.graph"), pytest.importorskip("langgraph.types")
    memory = pytest.importorskip("langgraph.checkpoint.memory")

    def commands(state: Any) -> Any:
        said = MODEL.invoke(state["messages"])
        return types.Command(graph=types.Command.PARENT, goto="other", update={"messages": [said]})

    def interrupts(state: Any) -> Any:
        return types.interrupt({"draft": MODEL.invoke(state["messages"]).text})

    for node in (commands, interrupts):
        inner = graphs.StateGraph(graphs.MessagesState)
        inner.add_node("node", node)
        inner.add_edge(graphs.START, "node")
        outer = graphs.StateGraph(graphs.MessagesState)
        outer.add_node("guarded", safe(inner.compile(), output_text=lambda state: state["messages"][-1].text))
        outer.add_node("other", lambda state: {})
        outer.add_edge(graphs.START, "guarded")
        graph, config = outer.compile(checkpointer=memory.InMemorySaver()), {"configurable": {"thread_id": "1"}}
        with pytest.raises(ChainError):
            graph.invoke({"messages": [("user", "hi")]}, config)
        assert EVIL not in repr(graph.get_state(config))


@pytest.mark.parametrize("path", PATHS)
async def test_a_graph_behind_the_rail(path: str) -> None:
    graphs = pytest.importorskip("langgraph.graph")
    errors = pytest.importorskip("langgraph.errors")

    def answers(state: Any) -> Any:
        return {"messages": [MODEL.invoke("hi")]}

    def fails(state: Any) -> Any:
        raise OwnError(state["messages"][-1].text)

    for node, kind in ((fails, ChainError), (answers, errors.GraphRecursionError)):
        graph = graphs.StateGraph(graphs.MessagesState)
        graph.add_node("model", answers)
        graph.add_node("next", node)
        graph.add_edge(graphs.START, "model")
        graph.add_edge("model", "next")
        graph.add_edge("next", "model")
        chain = RunnableLambda(lambda text: {"messages": [("user", text)]}) | graph.compile()
        recorder = RunCollectorCallbackHandler()
        rail = safe(chain, output_text=lambda state: state["messages"][-1].text)
        error = await raised(rail, path, {"callbacks": [recorder], "recursion_limit": 4})
        assert type(error) is kind, error
        assert not holds(error)
        assert EVIL not in shown(recorder)
