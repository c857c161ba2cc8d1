"""Chunks are added up at once, and to the same as one by one."""

from __future__ import annotations

import importlib
from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk

from guardrail_plugin.runnables.streams import joined


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
