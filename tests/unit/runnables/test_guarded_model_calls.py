"""A guarded model in the place of the one inside: its config, its marks, its token counts, and its rails in traces."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any, NoReturn

import pytest
from langchain_core.callbacks import (
    AsyncCallbackManagerForChainRun,
    BaseCallbackHandler,
    CallbackManagerForChainRun,
)
from langchain_core.messages import AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.runnables import ConfigurableField, RunnableConfig, RunnablePassthrough
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from guardrail_plugin.observe import ObserverCallback
from guardrail_plugin.observe.event import RailEvent
from guardrail_plugin.runnables import guard_model
from guardrail_plugin.testing import ScriptedModel, allow_all
from guardrail_plugin.testing.contract import FORBIDDEN, HARMFUL_TURN, HARMLESS_TURN, SAFEGUARD, not_in, watchman

WAYS = ("invoke", "ainvoke", "stream", "astream")


async def said(model: Any, way: str, config: RunnableConfig | None = None) -> str:
    if way == "invoke":
        return str(model.invoke("hi", config).text)
    if way == "ainvoke":
        return str((await model.ainvoke("hi", config)).text)
    if way == "stream":
        return "".join(chunk.text for chunk in model.stream("hi", config))
    if way == "stream_events":
        return str(model.stream_events("hi", config, version="v3").output.text)
    if way == "astream_events":
        return str((await (await model.astream_events("hi", config, version="v3"))).text)
    return "".join([chunk.text async for chunk in model.astream("hi", config)])


@pytest.mark.parametrize("way", WAYS)
async def test_the_calls_config_reaches_the_model_inside(way: str) -> None:
    inner = ScriptedModel(("one.",)).configurable_alternatives(
        ConfigurableField("llm"), default_key="first", second=ScriptedModel(("two.",))
    )
    model = guard_model(inner, guardian=allow_all())
    config: RunnableConfig = {"configurable": {"llm": "second"}}
    assert await said(model, way) == "one."
    assert await said(model, way, config) == "two."
    assert await said(model.with_config(config), way) == "two."
    assert await said(RunnablePassthrough() | model, way, config) == "two."


@pytest.mark.filterwarnings("ignore:.* is in beta")
@pytest.mark.parametrize("way", ["stream_events", "astream_events"])
async def test_the_calls_config_reaches_the_model_inside_under_v3_events(way: str) -> None:
    inner = ScriptedModel(("one.",)).configurable_alternatives(
        ConfigurableField("llm"), default_key="first", second=ScriptedModel(("two.",))
    )
    model = guard_model(inner, guardian=allow_all())
    config: RunnableConfig = {"configurable": {"llm": "second"}}
    assert await said(model, way) == "one."
    assert await said(model, way, config) == "two."
    assert await said(model.with_config(config), way) == "two."
    blocked = await said(guard_model(ScriptedModel(HARMFUL_TURN), guardian=watchman()), way, config)
    assert blocked.endswith(SAFEGUARD)
    assert FORBIDDEN not in blocked


async def test_events_of_other_versions_are_those_of_other_models() -> None:
    model = guard_model(ScriptedModel(HARMLESS_TURN), guardian=watchman())
    events = [event async for event in model.astream_events("hi", version="v2")]
    told = [event["data"]["chunk"].text for event in events if event["event"] == "on_chat_model_stream"]
    assert "".join(told) == "".join(HARMLESS_TURN)
    with pytest.raises(NotImplementedError):
        model.stream_events("hi", version="v2")


@pytest.mark.parametrize("way", WAYS)
async def test_listeners_find_it_by_the_marks_of_the_model_inside(way: str) -> None:
    class Starts(BaseCallbackHandler):
        run_inline = True
        seen: tuple[list[str], dict[str, Any]] = ([], {})

        def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
            self.seen = (kwargs["tags"], kwargs["metadata"])

    inner = ScriptedModel(HARMLESS_TURN)
    inner.tags, inner.metadata = ["nostream"], {"team": "red", "shift": "day"}
    bound = inner.with_config(tags=["joke"], metadata={"shift": "night"})
    starts = Starts()
    await said(guard_model(bound, guardian=allow_all()), way, {"callbacks": [starts], "tags": ["mine"]})
    tags, metadata = starts.seen
    assert set(tags) == {"nostream", "joke", "mine"}
    assert (metadata["team"], metadata["shift"]) == ("red", "night")


def test_tokens_are_counted_as_the_model_inside_counts_them() -> None:
    class Counting(ScriptedModel):
        def get_token_ids(self, text: str) -> list[int]:
            return [7] * 3

        def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
            return 40 + len(tools or ())

    counting: Any = Counting
    for inner in (counting(HARMLESS_TURN), counting(HARMLESS_TURN).bind(stop=["x"])):
        model = guard_model(inner, guardian=allow_all())
        assert (model.get_token_ids("hi"), model.get_num_tokens("hi")) == ([7, 7, 7], 3)
        assert model.get_num_tokens_from_messages([HumanMessage("hi")]) == 40
        assert model.get_num_tokens_from_messages([HumanMessage("hi")], tools=[{}]) == 41


USED: Any = {"input_tokens": 5, "output_tokens": 3, "total_tokens": 8}


@pytest.mark.parametrize("way", ["stream", "astream"])
@pytest.mark.parametrize(
    "turn",
    [
        pytest.param(("Write to ", FORBIDDEN), id="nothing left"),
        pytest.param(
            (AIMessageChunk(content=HARMFUL_TURN[0], usage_metadata=USED), "Write to ", FORBIDDEN), id="a part left"
        ),
    ],
)
async def test_a_blocked_stream_tells_what_the_answer_cost(way: str, turn: Any) -> None:
    named = (*turn, AIMessageChunk(content="", response_metadata={"model_name": "gpt-4o-2024-08-06"}))
    model = guard_model(ScriptedModel(named), guardian=watchman())
    whole = model.invoke("hi")
    streamed: Any = reduce(
        add, list(model.stream("hi")) if way == "stream" else [chunk async for chunk in model.astream("hi")]
    )
    assert whole.text == SAFEGUARD
    assert streamed.text == (SAFEGUARD if len(turn) == 2 else f"{HARMFUL_TURN[0]}\n\n{SAFEGUARD}")
    assert whole.usage_metadata is not None
    assert streamed.usage_metadata == whole.usage_metadata
    assert streamed.response_metadata["model_name"] == whole.response_metadata["model_name"] == "gpt-4o-2024-08-06"


def test_a_name_that_has_left_is_not_told_twice() -> None:
    first, rest = (AIMessageChunk(content=text, response_metadata={"model_name": "m"}) for text in HARMFUL_TURN[:2])
    model = guard_model(ScriptedModel((first, rest, FORBIDDEN)), guardian=watchman())
    streamed: Any = reduce(add, model.stream("hi"))
    assert streamed.text.endswith(SAFEGUARD)
    assert streamed.response_metadata["model_name"] == "m"


@pytest.mark.parametrize("way", WAYS)
async def test_the_rail_is_a_child_of_the_models_run_on_every_path(way: str) -> None:
    recorder = RunCollectorCallbackHandler()
    await said(guard_model(ScriptedModel(HARMFUL_TURN), guardian=watchman()), way, {"callbacks": [recorder]})
    [root] = recorder.traced_runs
    held, rail = sorted(root.child_runs, key=lambda child: child.name)
    assert (held.name, rail.name) == ("ScriptedModel", "guardrail.output")
    assert rail.outputs is not None
    assert rail.outputs["action"] == "block"
    not_in([[run.inputs, run.outputs, run.events] for run in root.child_runs], "in a trace")


@pytest.mark.parametrize("way", WAYS)
async def test_where_nobody_listens_there_are_no_runs(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str | None] = []

    def note(self: object, tag: str | None = None) -> NoReturn:
        started.append(tag)
        raise AssertionError("a run for nobody")

    for manager in (CallbackManagerForChainRun, AsyncCallbackManagerForChainRun):
        monkeypatch.setattr(manager, "get_child", note)
    assert await said(guard_model(ScriptedModel(HARMLESS_TURN), guardian=watchman()), way) == "".join(HARMLESS_TURN)
    assert started == []


@pytest.mark.parametrize("way", WAYS)
async def test_observers_hear_of_a_blocked_answer_on_every_path(way: str) -> None:
    class Kept:
        def __init__(self) -> None:
            self.events: list[RailEvent] = []

        def rail(self, event: RailEvent) -> None:
            self.events.append(event)

    kept = Kept()
    observer: Any = ObserverCallback(kept)  # type: ignore[arg-type]
    chain: Any = RunnablePassthrough() | guard_model(ScriptedModel(HARMFUL_TURN), guardian=watchman())
    await said(chain, way, {"callbacks": [observer]})
    assert [(event.rail, event.action, event.hazard) for event in kept.events] == [("output", "block", "S7")]
