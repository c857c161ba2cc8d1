"""Chunks are added up at once, to the same as one by one; of an answer's, what leaves is what was judged."""

from __future__ import annotations

import importlib
import json
from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, ChatMessageChunk, HumanMessage
from langchain_core.output_parsers import JsonOutputParser, JsonOutputToolsParser
from langchain_core.runnables import RunnableGenerator

from guardrail_plugin.core.errors import InputError
from guardrail_plugin.runnables import ToolPolicy, guard, guard_model
from guardrail_plugin.runnables.streams import joined
from guardrail_plugin.testing import ScriptedGuardian, ScriptedModel, allow_all, verdict

RULE: Any = {"BOMB": verdict(risk=0.9, hazard="S9")}


def calls(*arguments: str) -> list[AIMessageChunk]:
    return [
        AIMessageChunk(
            content="",
            id="m",
            tool_call_chunks=[{"name": None if n else "f", "args": text, "id": None if n else "c", "index": 0}],
        )
        for n, text in enumerate(arguments)
    ]


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([AIMessageChunk(content=text, id="m") for text in ("a ", "b ", "c")], id="text"),
        pytest.param(
            [AIMessageChunk(content=[{"type": "text", "text": text, "index": 0}]) for text in ("a", "b")], id="blocks"
        ),
        pytest.param(calls('{"to": ', '"al', 'ice"}'), id="arguments"),
        pytest.param([*calls('{"to": '), AIMessageChunk(content="x", chunk_position="last")], id="both"),
    ],
)
def test_chunks_add_up_to_the_same(parts: list[AIMessageChunk]) -> None:
    assert joined(parts) == reduce(add, parts)


def test_what_does_not_add_up_counts_by_its_last_part() -> None:
    unlike = [AIMessageChunk(content="a", additional_kwargs={"n": value}) for value in ("one", 2)]
    assert joined(unlike) is unlike[1]
    parts: list[Any] = [{"a": 1}, None, {"b": 2}]
    assert joined(parts) == {"b": 2}
    assert joined([AIMessageChunk(content="a")]).text == "a"


def test_many_pieces_of_one_calls_arguments_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = calls('{"text": "', *["word "] * 500, '"}')
    read: list[str] = []
    messages = importlib.import_module("langchain_core.messages.ai")
    parse = messages.parse_partial_json

    def note(text: str, **settings: Any) -> Any:
        read.append(text)
        return parse(text, **settings)

    monkeypatch.setattr(messages, "parse_partial_json", note)
    assert joined(parts).tool_calls[0]["args"]["text"].count("word") == 500
    assert len(read) <= 2


def saying(*chunks: Any) -> Any:
    def say(_: Any) -> Any:
        yield from chunks

    async def asay(_: Any) -> Any:
        for chunk in chunks:
            yield chunk

    return RunnableGenerator(say, asay)


async def left(chain: Any) -> list[list[Any]]:
    """Return the chunks of both streams, or what they raised."""
    found: list[list[Any]] = []
    for way in ("stream", "astream"):
        got: list[Any] = []
        try:
            if way == "stream":
                got.extend(chain.stream("hi"))
            else:
                got.extend([chunk async for chunk in chain.astream("hi")])
        except InputError as error:
            got.append(error)
        found.append(got)
    return found


async def test_of_chunks_that_only_output_text_reads_the_judged_value_leaves() -> None:
    def text(value: Any) -> str:
        return str(value["answer"])

    settings: dict[str, Any] = {"rails": ("output",), "output_text": text, "on_block": lambda *_: {"answer": "No."}}
    for pieces, told in (
        (('{"answer": "the BOMB", ', '"answer": "fine"}'), {"answer": "fine"}),  # JSON takes the last for the answer
        (('{"answer": "fine, ', 'the BOMB"}'), {"answer": "No."}),
        (("{", '"answer": "fi', 'ne"}'), {"answer": "fine"}),
    ):
        chain: Any = guard(ScriptedModel(pieces) | JsonOutputParser(), guardian=ScriptedGuardian(RULE), **settings)
        assert chain.invoke("hi") == told
        assert await left(chain) == [[told], [told]]


@pytest.mark.parametrize("settings", [{}, {"rails": ("input", "output"), "overlap": True}], ids=["after", "beside"])
async def test_a_list_that_a_parser_yields_as_it_grows_counts_once(settings: dict[str, Any]) -> None:
    chain = ScriptedModel(('["a"', ', "b"]')) | JsonOutputParser()
    given: dict[str, Any] = {"rails": ("output",), "output_text": json.dumps, "on_block": "raise", **settings}
    safe: Any = guard(chain, guardian=allow_all(), **given)
    assert safe.invoke("hi") == ["a", "b"]
    assert list(safe.stream("hi")) == [safe.invoke("hi")]
    assert await left(safe) == [[["a", "b"]], [["a", "b"]]]


async def test_a_guarded_graph_streams_the_state_that_it_ends_with() -> None:
    graphs = pytest.importorskip("langgraph.graph")

    def answer(state: Any) -> Any:
        return {"messages": [ScriptedModel(["The answer."]).invoke(state["messages"])]}

    def nothing(state: Any) -> Any:
        return {}

    graph = graphs.StateGraph(graphs.MessagesState)
    graph.add_node("answer", answer)
    graph.add_node("nothing", nothing)
    graph.add_edge(graphs.START, "answer")
    graph.add_edge("answer", "nothing")
    judge = ScriptedGuardian(RULE)

    def last(state: Any) -> str:
        return str(state["messages"][-1].text)

    chain: Any = guard(graph.compile(), guardian=judge, rails=("output",), output_text=last, on_block="raise")
    asked = {"messages": [HumanMessage("hi")]}
    states = [*chain.stream(asked), *[state async for state in chain.astream(asked)]]
    states += [
        event["data"]["chunk"]
        async for event in chain.astream_events(asked, version="v2")
        if event["event"] == "on_chain_stream" and not event["parent_ids"]
    ]
    assert [[message.text for message in state["messages"]] for state in states] == [["hi", "The answer."]] * 3
    assert [check.text for check in judge.checks] == ["The answer."] * 3


def order(text: str, index: int, **beside: Any) -> AIMessageChunk:
    call: Any = {"name": "mail", "args": f'{{"to": "{text}"}}', "id": str(index), "index": index}
    return AIMessageChunk(content="", tool_call_chunks=[call], additional_kwargs=beside)


async def test_a_message_that_output_text_reads_is_a_chunk_in_streams() -> None:
    settings: dict[str, Any] = {"rails": ("output",), "output_text": lambda said: said}
    chain: Any = guard(ScriptedModel([order("you", 0)]), guardian=allow_all(), **settings)
    for [chunk] in await left(chain):
        assert isinstance(chunk, AIMessageChunk)
        assert chunk.tool_calls == chain.invoke("hi").tool_calls
    [calls] = (chain | JsonOutputToolsParser()).stream("hi")
    assert [call["args"] for call in calls] == [{"to": "you"}]


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([order("BOMB", 0, n="one"), order("you", 1, n=2)], id="that do not add up"),
        pytest.param(
            [order("BOMB", 0), ChatMessageChunk(role="assistant", content=[{"type": "tool_use", "name": "a"}])],
            id="of two kinds",
        ),
        pytest.param([order("BOMB", 0), AIMessage("", tool_calls=[{"name": "a", "args": {}, "id": "2"}])], id="whole"),
    ],
)
async def test_no_tool_call_of_a_stream_gets_lost_before_it_is_judged(chunks: list[Any]) -> None:
    judge = ScriptedGuardian(RULE)
    for got in await left(guard(saying(*chunks), guardian=judge, rails=("output",), output_type=AIMessage)):
        assert "BOMB" not in repr(got)
        assert got


async def test_no_tool_call_of_a_guarded_model_gets_lost_before_it_is_judged() -> None:
    inner = saying(order("BOMB", 0, n="one"), order("you", 1, n=2))
    for got in await left(guard_model(inner, guardian=ScriptedGuardian(RULE), tools=ToolPolicy())):
        assert [type(one) for one in got] == [InputError]
