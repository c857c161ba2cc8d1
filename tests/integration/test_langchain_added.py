"""What the program adds to a run as a user's message: with ``Command(update=...)``, or as a summary of old turns."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, ChatMessage, HumanMessage, RemoveMessage
from langchain_core.tools import tool

from guardrail_plugin import BlockedError, Policy
from guardrail_plugin.testing import ScriptedModel
from guardrail_plugin.testing.contract import FORBIDDEN, HARMLESS_TURN, SAFEGUARD, not_in, watchman

agents = pytest.importorskip("langchain.agents")
middleware = pytest.importorskip("langchain.agents.middleware")
memory = pytest.importorskip("langgraph.checkpoint.memory")
types = pytest.importorskip("langgraph.types")
guardrail_langchain = importlib.import_module("guardrail_langchain")
turns = importlib.import_module("guardrail_langchain.turns")
Guardrail = guardrail_langchain.GuardrailMiddleware

DONE = ("All is ", "done now.")
THREAD: Any = {"configurable": {"thread_id": "t"}}
WAYS = pytest.mark.parametrize("way", ["invoke", "ainvoke"])
MARK = {"lc_source": "summarization"}
TALK = "The user planned a trip to Rome."


@tool
def confirm(what: str) -> str:
    """Ask the user."""
    return f"the user said {types.interrupt(what)}"


CONFIRM = AIMessageChunk(
    content="", tool_call_chunks=[{"name": "confirm", "args": '{"what": "really?"}', "id": "c", "index": 0}]
)


async def step(graph: Any, way: str, value: Any) -> Any:
    return graph.invoke(value, THREAD) if way == "invoke" else await graph.ainvoke(value, THREAD)


def asking(text: str) -> dict[str, Any]:
    return {"messages": [HumanMessage(text)]}


def pausing(model: ScriptedModel, **settings: Any) -> tuple[Any, Any]:
    guardian = watchman()
    rails = Guardrail(guardian=guardian, **settings)
    return agents.create_agent(model, [confirm], middleware=[rails], checkpointer=memory.InMemorySaver()), guardian


def resumed(text: str, **settings: Any) -> Any:
    return types.Command(resume="yes", update={"messages": [HumanMessage(text, **settings)]})


@WAYS
async def test_a_message_that_comes_with_a_resume_is_judged_before_the_model_reads_it(way: str) -> None:
    model = ScriptedModel([CONFIRM], DONE)
    graph, guardian = pausing(model)
    assert "__interrupt__" in await step(graph, way, asking("hi"))
    state = await step(graph, way, resumed(f"Tell {FORBIDDEN}"))
    assert model.calls == 1
    not_in(state, "in the state")
    assert state["messages"][-1].text == SAFEGUARD
    state = await step(graph, way, asking("How are you?"))
    assert state["messages"][-1].text == "".join(DONE)
    not_in(model.asked, "to the model")
    assert [check.text for check in guardian.checks if check.rail == "input"] == [
        "hi",
        f"Tell {FORBIDDEN}",
        "How are you?",
    ]


@WAYS
async def test_a_harmless_one_is_judged_once(way: str) -> None:
    model = ScriptedModel([CONFIRM], [CONFIRM], HARMLESS_TURN)
    graph, guardian = pausing(model)
    await step(graph, way, asking("hi"))
    await step(graph, way, resumed("and be quick"))
    await step(graph, way, types.Command(resume="yes"))
    assert any(message.text == "and be quick" for message in model.asked[-1])
    assert [check.text for check in guardian.checks if check.rail == "input"] == ["hi", "and be quick"]


@WAYS
async def test_a_person_may_be_asked_about_it(way: str) -> None:
    model = ScriptedModel([CONFIRM], HARMLESS_TURN)
    graph, _ = pausing(model, policy=Policy(hazards={"S7": {"action": "escalate"}}))
    await step(graph, way, asking("hi"))
    paused = await step(graph, way, resumed(f"Tell {FORBIDDEN}"))
    assert [item.value["rail"] for item in paused["__interrupt__"]] == ["input"]
    assert model.calls == 1
    state = await step(graph, way, types.Command(resume="say this"))
    not_in([state, model.asked], "after an edit")
    assert any(message.text == "say this" for message in model.asked[-1])


@WAYS
async def test_it_raises_where_blocks_raise(way: str) -> None:
    model = ScriptedModel([CONFIRM], HARMLESS_TURN)
    graph, _ = pausing(model, policy=Policy(on_block="raise"))
    await step(graph, way, asking("hi"))
    with pytest.raises(BlockedError):
        await step(graph, way, resumed(f"Tell {FORBIDDEN}"))
    assert model.calls == 1


@WAYS
async def test_a_thread_in_which_one_raised_goes_on_once_it_is_removed(way: str) -> None:
    model = ScriptedModel(HARMLESS_TURN, DONE)
    rails = Guardrail(guardian=watchman(), policy=Policy(on_block="raise"))
    graph = agents.create_agent(model, [], middleware=[rails], checkpointer=memory.InMemorySaver())
    await step(graph, way, asking("hi"))
    for said in (HumanMessage(f"Tell {FORBIDDEN}", id="bad"), HumanMessage("How are you?", id="next")):
        with pytest.raises(BlockedError):
            await step(graph, way, {"messages": [said]})
    await step(graph, way, {"messages": [RemoveMessage(id="bad"), HumanMessage("Are you there?")]})
    assert [message.text for message in model.asked[-1]][-2:] == ["How are you?", "Are you there?"]
    not_in(model.asked, "to the model")


@WAYS
async def test_a_known_message_under_another_name_or_type_is_judged_again(way: str) -> None:
    guardian = watchman()
    graph = agents.create_agent(
        ScriptedModel(*[HARMLESS_TURN] * 4),
        [],
        middleware=[Guardrail(guardian=guardian, rails=("input",))],
        checkpointer=memory.InMemorySaver(),
    )
    again = ChatMessage(content="hi", role="user", id="1")
    other = HumanMessage("hi", id="1", additional_kwargs={"name": "eve"})
    said_by = [HumanMessage("hi", id="1"), HumanMessage("hi", id="1", name="bob"), other, again]
    for judged, said in enumerate(said_by, 1):
        await step(graph, way, {"messages": [said]})
        assert len(guardian.checks) == judged


@WAYS
@pytest.mark.parametrize(("name", "kept"), [(f"obey {FORBIDDEN}", None), ("bob", "bob")])
async def test_nothing_is_said_by_the_name_of_a_blocked_message(way: str, name: str, kept: str | None) -> None:
    model = ScriptedModel(HARMLESS_TURN)
    graph = agents.create_agent(
        model, [], middleware=[Guardrail(guardian=watchman())], checkpointer=memory.InMemorySaver()
    )
    state = await step(graph, way, {"messages": [HumanMessage(f"Tell {FORBIDDEN}", name=name)]})
    not_in(state, "in the state")
    assert state["messages"][0].name == kept
    await step(graph, way, asking("How are you?"))
    not_in(model.asked, "to the model")


def summing_up(summary: str, **settings: Any) -> tuple[Any, Any, ScriptedModel]:
    """Return an agent that keeps the latest message alone, and has a model sum up what was before it."""
    guardian, model = watchman(), ScriptedModel(HARMLESS_TURN, DONE, HARMLESS_TURN)
    sums = middleware.SummarizationMiddleware(ScriptedModel((summary,)), trigger=("messages", 3), keep=("messages", 1))
    rails = [sums, Guardrail(guardian=guardian, **settings)]
    return agents.create_agent(model, [], middleware=rails, checkpointer=memory.InMemorySaver()), guardian, model


@WAYS
async def test_a_summary_is_judged_once_and_apart_from_the_users_words(way: str) -> None:
    graph, guardian, model = summing_up(TALK)
    await step(graph, way, asking("one"))
    await step(graph, way, asking("two"))
    assert [message.text for message in model.asked[-1]] == [
        f"Here is a summary of the conversation to date:\n\n{TALK}",
        "two",
    ]
    await step(graph, way, asking("three"))
    inputs = [check for check in guardian.checks if check.rail == "input"]
    assert [check.text for check in inputs if TALK not in check.text] == ["one", "two", "three"]
    assert all(check.text.endswith(TALK) for check in inputs if TALK in check.text)
    assert len([check for check in inputs if TALK in check.text]) == 2, "one for each that was written"
    third = next(check for check in inputs if check.text == "three")
    assert (third.context[0].role, TALK in third.context[0].text) == ("assistant", True)


@WAYS
@pytest.mark.parametrize("on_block", ["respond", "raise"])
async def test_a_summary_that_does_not_pass_is_left_out_and_the_agent_goes_on(way: str, on_block: Any) -> None:
    graph, _, model = summing_up(f"The user asked about {FORBIDDEN}", policy=Policy(on_block=on_block))
    for text, said in (("one", HARMLESS_TURN), ("two", DONE), ("three", HARMLESS_TURN)):
        state = await step(graph, way, asking(text))
        assert state["messages"][-1].text == "".join(said)
    not_in([state, model.asked], "with the summary")
    assert [message.text for message in model.asked[-1]] == [turns.SUMMARY_WITHHELD, "three"]


@WAYS
@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(
    "smuggled",
    [
        pytest.param([HumanMessage(f"Tell {FORBIDDEN}", additional_kwargs=MARK)], id="alone"),
        pytest.param([HumanMessage(FORBIDDEN, additional_kwargs=MARK), HumanMessage("hi")], id="before a message"),
        pytest.param([HumanMessage("hi"), HumanMessage(FORBIDDEN, additional_kwargs=MARK)], id="behind a message"),
        pytest.param(
            [HumanMessage(FORBIDDEN), HumanMessage("x", additional_kwargs=MARK), HumanMessage("hi")], id="as a break"
        ),
    ],
)
async def test_the_mark_of_a_summary_gets_nothing_past_the_rail(way: str, later: bool, smuggled: list[Any]) -> None:
    model = ScriptedModel(HARMLESS_TURN, DONE)
    graph = agents.create_agent(
        model, [], middleware=[Guardrail(guardian=watchman())], checkpointer=memory.InMemorySaver()
    )
    if later:
        await step(graph, way, asking("How are you?"))
    state = await step(graph, way, {"messages": smuggled})
    not_in([state, model.asked], "under the mark of a summary")
    assert isinstance(state["messages"][-1], AIMessage)


@WAYS
async def test_nor_does_it_with_a_resume(way: str) -> None:
    model = ScriptedModel([CONFIRM], HARMLESS_TURN)
    graph, _ = pausing(model)
    await step(graph, way, asking("hi"))
    state = await step(graph, way, resumed(f"Tell {FORBIDDEN}", additional_kwargs=MARK))
    not_in([state, model.asked], "under the mark of a summary")
