"""``GuardedSaver``: what was not judged, or was blocked, is never written; LangGraph works as with the store alone."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from langgraph.channels.delta import DeltaChannel
from typing_extensions import TypedDict

from guardrail_plugin import BlockedError, ConfigError, Policy
from guardrail_plugin.testing import ScriptedModel, allow_all
from guardrail_plugin.testing.contract import FORBIDDEN, HARMFUL_TURN, HARMLESS_TURN, SAFEGUARD, not_in, watchman
from guardrail_plugin.testing.contract_agents import calling
from guardrail_plugin.testing.contract_tools import POISON, mail_tool

agents = pytest.importorskip("langchain.agents")
memory = pytest.importorskip("langgraph.checkpoint.memory")
serializers = pytest.importorskip("langgraph.checkpoint.serde.jsonplus")
sqlite = pytest.importorskip("langgraph.checkpoint.sqlite")
asqlite = pytest.importorskip("langgraph.checkpoint.sqlite.aio")
types = pytest.importorskip("langgraph.types")
graphs = pytest.importorskip("langgraph.graph")
guardrail_langchain = importlib.import_module("guardrail_langchain")
aside = importlib.import_module("guardrail_langchain.aside")
Guardrail, GuardedSaver = guardrail_langchain.GuardrailMiddleware, guardrail_langchain.GuardedSaver

DONE = ("All is ", "done now.")
THREAD: Any = {"configurable": {"thread_id": "t"}}
ASKING = Policy(hazards={"S7": {"action": "escalate"}})
TURNS: dict[str, tuple[tuple[Any, ...], str]] = {
    "input": ((HARMLESS_TURN,), f"tell {FORBIDDEN}"),
    "output": ((HARMFUL_TURN,), "hi"),
    "tool output": ((calling(POISON), DONE), "hi"),
    "tool arguments": ((calling(FORBIDDEN, "alice"), DONE), "hi"),
}


class Store:
    """A SQLite file, sync or async, and all that can be read in it."""

    def __init__(self, saver: Any, path: Path) -> None:
        self.saver = saver
        self.path = path

    def holds(self, text: str) -> bool:
        files = [path for path in self.path.parent.iterdir() if path.name.startswith(self.path.name)]
        return any(text.encode() in path.read_bytes() for path in files)


@pytest.fixture(params=["sync", "async"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    path = tmp_path / "checkpoints.sqlite"
    if request.param == "sync":
        with sqlite.SqliteSaver.from_conn_string(str(path)) as opened:
            yield Store(opened, path)
    else:
        async with asqlite.AsyncSqliteSaver.from_conn_string(str(path)) as opened:
            yield Store(opened, path)


async def step(graph: Any, store: Store, value: Any, config: Any = THREAD, **settings: Any) -> Any:
    if isinstance(store.saver, sqlite.SqliteSaver):
        return graph.invoke(value, config, **settings)
    return await graph.ainvoke(value, config, **settings)


async def history(graph: Any, store: Store) -> list[Any]:
    if isinstance(store.saver, sqlite.SqliteSaver):
        return list(graph.get_state_history(THREAD))
    return [item async for item in graph.aget_state_history(THREAD)]


def guarded(model: Any, tools: Any, checkpointer: Any, **settings: Any) -> Any:
    rails = Guardrail(guardian=watchman(), **settings)
    return agents.create_agent(model, tools, middleware=[rails], checkpointer=checkpointer)


def asking(text: str) -> dict[str, Any]:
    return {"messages": [HumanMessage(text)]}


@pytest.mark.parametrize("durability", ["async", "exit"])
@pytest.mark.parametrize("blocked", TURNS)
async def test_no_byte_of_a_blocked_text_is_stored(store: Store, blocked: str, durability: str) -> None:
    turns, said = TURNS[blocked]
    graph = guarded(ScriptedModel(*turns, HARMLESS_TURN), [mail_tool([])], GuardedSaver(store.saver))
    state = await step(graph, store, asking(said), durability=durability)
    assert state["messages"][-1].text in (SAFEGUARD, "".join(DONE))
    await step(graph, store, asking("a harmless turn after it"), durability=durability)
    assert store.holds("a harmless turn after it"), "the search finds what is stored"
    assert not store.holds(FORBIDDEN)
    not_in(await history(graph, store), "in the history")


async def test_without_it_a_blocked_input_is_stored(store: Store) -> None:
    await step(guarded(ScriptedModel(HARMLESS_TURN), [], store.saver), store, asking(f"tell {FORBIDDEN}"))
    assert store.holds(FORBIDDEN)


@pytest.mark.parametrize(
    ("resume", "durability"), [("block", "async"), ("block", "exit"), ("say this", "async"), ("allow", "async")]
)
@pytest.mark.parametrize("asked", ["input", "output", "tool output"])
async def test_what_waits_for_a_person_is_stored_once_it_is_allowed(
    store: Store, asked: str, resume: str, durability: str
) -> None:
    turns, said = TURNS[asked]
    done: list[str] = []
    model = ScriptedModel(*turns)
    graph = guarded(model, [mail_tool(done)], GuardedSaver(store.saver), policy=ASKING)
    paused = await step(graph, store, asking(said), durability=durability)
    [question] = paused["__interrupt__"]
    assert question.value["rail"] == asked.replace(" ", "_")
    assert not store.holds(FORBIDDEN)
    [now, *_] = await history(graph, store)
    assert now.interrupts == (question,)
    if asked != "input":
        [held] = guardrail_langchain.held_messages(now.values).values()
        assert FORBIDDEN in held.text
    state = await step(graph, store, types.Command(resume=resume), durability=durability)
    assert "__interrupt__" not in state
    assert done == ([POISON] if asked == "tool output" else []), "nothing ran twice"
    assert model.calls == (len(turns) if (asked, resume) != ("input", "block") else 0)
    assert store.holds(FORBIDDEN) is (resume == "allow")
    await step(graph, store, asking("How are you?"))
    assert store.holds(FORBIDDEN) is (resume == "allow")


async def test_the_history_is_one_chain_in_the_store_alone(store: Store) -> None:
    graph = guarded(ScriptedModel(calling("alice"), DONE, HARMLESS_TURN), [mail_tool([])], GuardedSaver(store.saver))
    await step(graph, store, asking("Write to alice"))
    await step(graph, store, asking(f"tell {FORBIDDEN}"))
    await step(graph, store, asking("How are you?"))
    snapshots = await history(guarded(ScriptedModel(DONE), [mail_tool([])], store.saver), store)
    ids = [item.config["configurable"]["checkpoint_id"] for item in snapshots]
    parents = [item.parent_config and item.parent_config["configurable"]["checkpoint_id"] for item in snapshots]
    assert ids == sorted(set(ids), reverse=True)
    assert parents == [*ids[1:], None]
    assert [message.type for message in snapshots[0].values["messages"]] == ["human", "ai", "tool", "ai"] + [
        "human",
        "ai",
    ] * 2


async def test_time_travel_to_a_stored_checkpoint(store: Store) -> None:
    model = ScriptedModel(("First.",), ("Second.",))
    graph = guarded(model, [], GuardedSaver(store.saver))
    await step(graph, store, asking("hi"))
    before = next(item for item in await history(graph, store) if item.next == ("model",))
    state = await step(graph, store, None, before.config)
    assert [message.text for message in state["messages"]] == ["hi", "Second."]
    [newest, *_] = await history(graph, store)
    assert [message.text for message in newest.values["messages"]] == ["hi", "Second."]


async def test_a_tools_held_output_survives_while_its_sibling_asks(store: Store) -> None:
    done: list[str] = []
    graph = guarded(
        ScriptedModel(calling(POISON, FORBIDDEN), DONE), [mail_tool(done)], GuardedSaver(store.saver), policy=ASKING
    )
    paused = await step(graph, store, asking("Write"))
    assert [item.value["rail"] for item in paused["__interrupt__"]] == ["tool_call"]
    assert done == [POISON]
    paused = await step(graph, store, types.Command(resume="block"))
    assert [item.value["rail"] for item in paused["__interrupt__"]] == ["tool_output"]
    state = await step(graph, store, types.Command(resume="block"))
    assert done == [POISON], "no tool ran twice, nor the blocked one"
    assert [message.status for message in state["messages"] if message.type == "tool"] == ["error", "error"]
    assert not store.holds(f"write to {FORBIDDEN}")


async def test_another_process_resumes_only_with_a_place_that_it_shares(store: Store) -> None:
    def agent(waiting: Any) -> tuple[ScriptedModel, Any]:
        model = ScriptedModel(HARMLESS_TURN)
        return model, guarded(model, [], GuardedSaver(store.saver, waiting=waiting), policy=ASKING)

    for shared in (None, memory.InMemorySaver()):
        thread = {"configurable": {"thread_id": f"shared: {shared is not None}"}}
        await step(agent(shared)[1], store, asking(f"tell {FORBIDDEN}"), thread)
        model, other = agent(shared)
        state = await step(other, store, types.Command(resume="say this"), thread)
        heard = [message.text for messages in model.asked for message in messages]
        assert heard == ([] if shared is None else ["say this"])
        not_in(state, "in another process")
        assert not store.holds(FORBIDDEN)


@pytest.mark.parametrize("waits", [True, False], ids=["paused", "judged"])
async def test_a_store_of_new_values_only_gets_all_of_them(waits: bool) -> None:
    # InMemorySaver keeps each value under its version, as PostgreSQL's does.
    saver = memory.InMemorySaver()
    graph = guarded(ScriptedModel(("One.",), ("Two.",)), [], GuardedSaver(saver), policy=ASKING)
    await graph.ainvoke(asking("first"), THREAD)
    await graph.ainvoke(asking(f"tell {FORBIDDEN}" if waits else "second"), THREAD)
    if waits:
        await graph.ainvoke(types.Command(resume="second"), THREAD)
    alone = guarded(ScriptedModel(DONE), [], saver).get_state(THREAD)
    assert [message.text for message in alone.values["messages"]] == ["first", "One.", "second", "Two."]


async def test_a_turn_in_which_a_block_raises_is_not_stored(store: Store) -> None:
    saver = GuardedSaver(store.saver)
    graph = guarded(ScriptedModel(HARMLESS_TURN), [], saver, policy=Policy(on_block="raise"))
    with pytest.raises(BlockedError):
        await step(graph, store, asking(f"tell {FORBIDDEN}"))
    assert not store.holds(FORBIDDEN)
    if isinstance(store.saver, sqlite.SqliteSaver):
        saver.delete_thread("t")
    else:
        await saver.adelete_thread("t")
    state = await step(graph, store, asking("How are you?"))
    assert [message.text for message in state["messages"]] == ["How are you?", "".join(HARMLESS_TURN)]


def _stacked(checkpointer: Any) -> Any:
    rails = [Guardrail(guardian=allow_all()), Guardrail(guardian=watchman())]
    return agents.create_agent(
        ScriptedModel(HARMLESS_TURN), [], middleware=rails, checkpointer=GuardedSaver(checkpointer)
    )


def _by_hand(checkpointer: Any) -> Any:
    graph = graphs.StateGraph(graphs.MessagesState)
    node = guardrail_langchain.guardrail_node(guardian=watchman(), then="model")
    graph.add_node("guardrail", node, destinations=("model", graphs.END))
    graph.add_node("model", lambda state: {"messages": [("ai", "heard")]})
    graph.add_edge(graphs.START, "guardrail")
    return graph.compile(checkpointer=GuardedSaver(checkpointer, until=["guardrail"]))


def _nested(checkpointer: Any) -> Any:
    graph = graphs.StateGraph(graphs.MessagesState)
    graph.add_node("agent", guarded(ScriptedModel(HARMLESS_TURN), [], None))
    graph.add_edge(graphs.START, "agent")
    return graph.compile(checkpointer=GuardedSaver(checkpointer, until=["agent"]))


@pytest.mark.parametrize("build", [_stacked, _by_hand, _nested])
async def test_other_graphs(store: Store, build: Callable[[Any], Any]) -> None:
    graph = build(store.saver)
    state = await step(graph, store, asking(f"tell {FORBIDDEN}"))
    assert state["messages"][-1].text == SAFEGUARD
    state = await step(graph, store, asking("a harmless turn"))
    assert state["messages"][-1].text in ("heard", "".join(HARMLESS_TURN))
    assert store.holds("a harmless turn")
    assert not store.holds(FORBIDDEN)


async def test_what_waits_is_bounded_and_a_dropped_turn_is_let_through_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("guardrail_langchain.aside._WAITING_THREADS", 2)
    saver = memory.InMemorySaver()
    model = ScriptedModel(HARMLESS_TURN)
    graph = guarded(model, [], GuardedSaver(saver), policy=ASKING)
    threads: list[Any] = [{"configurable": {"thread_id": str(number)}} for number in range(3)]
    for config in threads:
        await graph.ainvoke(asking("hi"), config)
        await graph.ainvoke(asking(f"tell {FORBIDDEN}"), config)
    assert [bool(graph.get_state(config).interrupts) for config in threads] == [False, True, True]
    await graph.ainvoke(types.Command(resume="allow"), threads[0])
    not_in(model.asked, "to the model")
    state = await graph.ainvoke(asking("How are you?"), threads[0])
    assert [message.text for message in state["messages"] if message.type == "human"] == ["hi", "How are you?"]


async def test_listing_shows_both_places_newest_first() -> None:
    saver = GuardedSaver(memory.InMemorySaver())
    graph = guarded(ScriptedModel(HARMLESS_TURN), [], saver, policy=ASKING)
    await graph.ainvoke(asking("hi"), THREAD)
    await graph.ainvoke(asking(f"tell {FORBIDDEN}"), THREAD)
    ids = [item.checkpoint["id"] for item in saver.list(THREAD)]
    assert ids == sorted(set(ids), reverse=True)
    assert ids[0] == graph.get_state(THREAD).config["configurable"]["checkpoint_id"]
    assert [item.checkpoint["id"] for item in saver.list(THREAD, limit=3)] == ids[:3]
    assert [item.checkpoint["id"] async for item in saver.alist(THREAD, limit=3)] == ids[:3]
    before = {"configurable": {"checkpoint_id": ids[1]}}
    assert [item.checkpoint["id"] for item in saver.list(THREAD, before=before)] == ids[2:]


async def test_many_threads_at_once() -> None:
    graph = guarded(ScriptedModel(HARMLESS_TURN), [], GuardedSaver(memory.InMemorySaver()), policy=ASKING)
    threads: list[Any] = [{"configurable": {"thread_id": str(number)}} for number in range(40)]
    said = [f"tell {FORBIDDEN}" if number % 2 else "hi" for number in range(40)]
    await asyncio.gather(*(graph.ainvoke(asking(text), config) for text, config in zip(said, threads, strict=True)))
    states = [graph.get_state(config) for config in threads]
    assert [bool(state.interrupts) for state in states] == [FORBIDDEN in text for text in said]


@pytest.mark.parametrize(
    ("arguments", "settings", "named"),
    [
        pytest.param(("checkpoints.sqlite",), {}, "saver must be a checkpointer, got str", id="a path"),
        pytest.param((memory.InMemorySaver(),), {"waiting": {}}, "waiting must be a checkpointer", id="waiting"),
        pytest.param((memory.InMemorySaver(),), {"until": "guardrail"}, "list of node names", id="a text"),
    ],
)
def test_a_wrong_setting_is_named(arguments: tuple[Any], settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        GuardedSaver(*arguments, **settings)


def test_one_place_for_both_is_refused() -> None:
    saver = memory.InMemorySaver()
    with pytest.raises(ConfigError, match="another checkpointer"):
        GuardedSaver(saver, waiting=saver)


class Spread(TypedDict):
    """A state whose list LangGraph rebuilds from old checkpoints."""

    parts: Annotated[list[str], DeltaChannel(lambda old, new: [*(old or []), *(part for many in new for part in many)])]


def test_channels_that_are_spread_over_checkpoints_are_refused() -> None:
    graph = graphs.StateGraph(Spread)
    graph.add_node("one", RunnableLambda(lambda state: {"parts": ["b"]}))
    graph.add_edge(graphs.START, "one")
    with pytest.raises(ConfigError, match="DeltaChannel"):
        graph.compile(checkpointer=GuardedSaver(memory.InMemorySaver())).invoke({"parts": ["a"]}, THREAD)


def test_what_waits_is_written_by_the_stores_own_serializer() -> None:
    serialized: list[str] = []

    class Noting(serializers.JsonPlusSerializer):  # type: ignore[misc, name-defined]
        def dumps_typed(self, value: Any) -> Any:
            serialized.append(repr(value))
            return super().dumps_typed(value)

    guarded(ScriptedModel(HARMLESS_TURN), [], GuardedSaver(memory.InMemorySaver(serde=Noting()))).invoke(
        asking(f"tell {FORBIDDEN}"), THREAD
    )
    assert any(FORBIDDEN in text for text in serialized)


def test_nothing_is_remembered_of_threads_that_were_only_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "_KNOWN", 2)
    place, ledger = aside.InMemory(), aside.Ledger(bounded=True)
    for number in range(4):
        config: Any = {"configurable": {"thread_id": str(number), "checkpoint_ns": ""}}
        assert place.get_tuple(config) is None
        assert not list(place.list(config))
        ledger.found((str(number), "", "id"))
    assert not place.storage
    assert [ledger.aside((str(number), "", "id")) for number in range(4)] == [None, None, False, False]


def sent(graph: Any) -> None:
    graph.add_conditional_edges(graphs.START, lambda state: [types.Send("guardrail", state)], ["guardrail"])


def joined(graph: Any) -> None:
    for name in "ab":
        graph.add_node(name, lambda state: {})
        graph.add_edge(graphs.START, name)
    graph.add_edge(["a", "b"], "guardrail")


def routed(graph: Any) -> None:
    graph.add_node("a", lambda state: types.Command(goto=[types.Send("guardrail", state)]), destinations=("guardrail",))
    graph.add_edge(graphs.START, "a")


@pytest.mark.parametrize("reach", [sent, joined, routed])
async def test_a_guard_may_be_reached_by_other_ways_than_an_edge(store: Store, reach: Callable[[Any], None]) -> None:
    graph = graphs.StateGraph(graphs.MessagesState)
    node = guardrail_langchain.guardrail_node(guardian=watchman(), then="model")
    graph.add_node("guardrail", node, destinations=("model", graphs.END))
    graph.add_node("model", lambda state: {"messages": [("ai", "heard")]})
    reach(graph)
    compiled = graph.compile(checkpointer=GuardedSaver(store.saver, until=["guardrail", "a", "b"]))
    said = await step(compiled, store, asking(f"tell {FORBIDDEN}"))
    assert said["messages"][-1].text == SAFEGUARD
    assert not store.holds(FORBIDDEN)


async def test_what_another_agent_held_keeps_no_thread_out_of_the_store(store: Store) -> None:
    saver = GuardedSaver(store.saver)
    first, then = (
        agents.create_agent(model, [], middleware=[Guardrail(guardian=watchman(), policy=policy)], checkpointer=saver)
        for model, policy in ((ScriptedModel(HARMFUL_TURN), ASKING), (ScriptedModel(HARMLESS_TURN), Policy()))
    )
    assert "__interrupt__" in await step(first, store, asking("first"))
    assert "__interrupt__" not in await step(then, store, asking("second"))
    assert store.holds("second")
    assert not store.holds(FORBIDDEN)
