"""Chunks are added up at once, to the same as one by one; of an answer's, what leaves is what was judged."""

from __future__ import annotations

import importlib
from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, ChatMessageChunk
from langchain_core.runnables import RunnableGenerator

from guardrail_plugin.core.errors import InputError
from guardrail_plugin.runnables import ToolPolicy, guard, guard_model
from guardrail_plugin.runnables.streams import joined
from guardrail_plugin.testing import ScriptedGuardian, verdict

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
    for chunks, told in (
        ([{"answer": "the BOMB"}, {"answer": "fine"}], {"answer": "fine"}),  # LangChain takes the last for the answer
        ([{"answer": "fine"}, {"answer": "the BOMB"}], {"answer": "No."}),
        ([{}, {"answer": "fi"}, {"answer": "fine"}], {"answer": "fine"}),
    ):
        chain = guard(saying(*chunks), guardian=ScriptedGuardian(RULE), **settings)
        assert await left(chain) == [[told], [told]]


def order(text: str, index: int, **beside: Any) -> AIMessageChunk:
    call: Any = {"name": "mail", "args": f'{{"to": "{text}"}}', "id": str(index), "index": index}
    return AIMessageChunk(content="", tool_call_chunks=[call], additional_kwargs=beside)


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
