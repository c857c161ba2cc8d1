"""What is judged of an input, and what cannot be."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    HumanMessageChunk,
    SystemMessage,
    ToolMessage,
)
from langchain_core.prompt_values import ChatPromptValue, ImagePromptValue, StringPromptValue

from guardrail_plugin.core.conversation import Check, Message
from guardrail_plugin.core.errors import InputError
from guardrail_plugin.flow import Uncheckable
from guardrail_plugin.runnables.content import text_in
from guardrail_plugin.runnables.views import latest_turn, read_input, user_turns

H, A, S = HumanMessage, AIMessage, SystemMessage
SECRET = "a-secret-word"
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
TOOL_CALL = A("", tool_calls=[{"name": "search", "args": {}, "id": "1"}])
TOOL = ToolMessage("found it", tool_call_id="1")


def turns(*pairs: tuple[Any, str]) -> tuple[Message, ...]:
    return tuple(Message(role, text) for role, text in pairs)


JUDGED: dict[str, tuple[object, str, tuple[Message, ...]]] = {
    "text": ("hi", "hi", ()),
    "text subclass": (A("hi").text, "hi", ()),
    "any lone message": (A("piped from a model"), "piped from a model", ()),
    "chunk": (HumanMessageChunk(content="hi"), "hi", ()),
    "system aside": ([S("be kind"), H("hi")], "hi", ()),
    "latest turn": ([H("a"), A("b"), H("c")], "c", turns(("user", "a"), ("assistant", "b"))),
    "all of the turn": ([H("a"), A("b"), H("c"), H("d")], "c\nd", turns(("user", "a"), ("assistant", "b"))),
    "a turn split by a system message": ([H("a"), S("s"), H("b")], "a\nb", ()),
    "no assistant yet": ([H("a"), H("b")], "a\nb", ()),
    "after a tool call": ([H("a"), TOOL_CALL, TOOL], "a", ()),
    "a prefilled answer does not hide the question": ([H("a"), A("Sure, here is")], "a", ()),
    "new question after tools": (
        [H("a"), TOOL_CALL, TOOL, A("b"), H("c")],
        "c",
        turns(("user", "a"), ("assistant", "b")),
    ),
    "only a system message": ([S("Answer this: how?")], "Answer this: how?", ()),
    "no user message": ([S("s"), TOOL], "s\nfound it", ()),
    "unknown roles are the user's": ([ChatMessage(content="hi", role="visitor")], "hi", ()),
    "chat message roles": (
        [
            ChatMessage(content="a", role="User"),
            ChatMessage(content="b", role="Assistant"),
            ChatMessage(content="c", role="user"),
        ],
        "c",
        turns(("user", "a"), ("assistant", "b")),
    ),
    "function output aside": ([H("a"), FunctionMessage(content="f", name="f")], "a", ()),
    "plain strings are user messages": (["a", "b"], "a\nb", ()),
    "role tuples": ((("system", "s"), ("user", "a")), "a", ()),
    "empty turn takes its text from its other message": ([H([IMAGE]), H("what is this?")], "what is this?", ()),
    "prompt": (ChatPromptValue(messages=[H("a"), A("b"), H("c")]), "c", turns(("user", "a"), ("assistant", "b"))),
    "text prompt": (StringPromptValue(text="hi"), "hi", ()),
    "question with history": (
        {"input": "c", "chat_history": [H("a"), A("b")]},
        "c",
        turns(("user", "a"), ("assistant", "b")),
    ),
    "messages with history": ({"messages": [H("c")], "history": [H("a")]}, "c", turns(("user", "a"))),
    "history that is none": ({"question": "c", "history": "a text"}, "c", ()),
    "known key wins over others": ({"query": "hi", "context": "text", "docs": [Document("d")]}, "hi", ()),
    "scalars aside": ({"topic": "hi", "n": 3, "x": 1.5, "flag": True, "none": None}, "hi", ()),
    "a name that tells": ([H("hi", name="Explain how to do it")], "Explain how to do it\nhi", ()),
    "a name of joined words": ([H("hi", name="Explain_how_to-do.it")], "Explain_how_to-do.it\nhi", ()),
    "a name in camel case": ({"role": "user", "content": "hi", "name": "HowToDo"}, "HowToDo\nhi", ()),
    "a long name": ([H("hi", name="x" * 25)], "x" * 25 + "\nhi", ()),
    "a name where OpenAI's class looks": ([H("hi", additional_kwargs={"name": "do it"})], "do it\nhi", ()),
    "a mere name": ([H("hi", name="Ann_Smith")], "hi", ()),
    "a name of somebody else": ([S("s", name="Explain how to do it"), H("hi", name="user-17")], "hi", ()),
    "NUL": ("a\x00b", "a\x00b", ()),
    "lone surrogate": ("a\ud800", "a\ud800", ()),
    "lone surrogate in blocks": (H([{"type": "text", "text": "\udfff"}]), "\udfff", ()),
}


@pytest.mark.parametrize("form", JUDGED)
def test_the_latest_user_turn_is_judged_in_context(form: str) -> None:
    value, text, context = JUDGED[form]
    assert read_input(value) == Check(text, rail="input", context=context)


def test_a_key_for_the_text_leaves_the_history_where_it_is() -> None:
    value = {"text": "c", "topic": "x", "chat_history": [H("a"), A("b")]}
    context = turns(("user", "a"), ("assistant", "b"))
    assert read_input(value, input_key="text") == Check("c", rail="input", context=context)
    whole = {"chat_history": [H("a"), A("b"), H("c")]}
    assert read_input(whole, input_key="chat_history") == Check("c", rail="input", context=context)


@pytest.mark.parametrize("letters", ["", "s", "a", "u", "uau", "uuatu", "suasutua", "uaat", "tuau"])
def test_user_turns_are_the_latest_turn_again_and_again(letters: str) -> None:
    kinds: dict[str, Any] = {"u": H("q"), "a": A("r"), "s": S("s"), "t": TOOL}
    messages = [kinds[letter] for letter in letters]
    expected, end = [], len(messages)
    while "u" in letters[:end]:
        start, stop, users = latest_turn(messages[:end])
        expected.append((stop, users))
        end = start
    assert list(user_turns(messages)) == expected


UNCHECKABLE: dict[str, tuple[object, str]] = {
    "empty": ("", "no text"),
    "blank": (" \t\n", "no text"),
    "no messages": ([], "no text"),
    "empty message": (H(""), "no text"),
    "image only": ([H([IMAGE])], "only image_url"),
    "image and blank text": ([H([IMAGE, {"type": "text", "text": " "}])], "image_url"),
    "several kinds": (H([IMAGE, {"type": "audio"}, {"type": SECRET}]), "only image_url, audio, other"),
    "image prompt": (ImagePromptValue(image_url={"url": SECRET}), "only image_url"),
    "empty value": ({"question": ""}, "no text"),
    "latest turn is an image": ([H(SECRET), A("nice"), H([IMAGE])], "only image_url"),
}


@pytest.mark.parametrize("form", UNCHECKABLE)
def test_an_input_without_text_is_uncheckable_and_says_why(form: str) -> None:
    value, why = UNCHECKABLE[form]
    found = read_input(value)
    assert isinstance(found, Uncheckable)
    assert why in found.reason
    assert "on_uncheckable" in found.reason
    assert SECRET not in found.reason


UNREADABLE: dict[str, tuple[object, dict[str, Any], str]] = {
    "None": (None, {}, "NoneType"),
    "number": (7, {}, "int"),
    "bytes": (SECRET.encode(), {}, "bytes"),
    "document": (Document(SECRET), {}, "Document"),
    "documents": ([Document(SECRET)], {}, "input_key"),
    "half a message": ([{"role": SECRET}], {}, "input_key"),
    "unknown role": ([{"role": SECRET, "content": "x"}], {}, "input_key"),
    "number as a message": ([7], {}, "input_key"),
    "empty dict": ({}, {}, "input_key"),
    "two texts": ({"a": SECRET, "b": SECRET}, {}, "no single value"),
    "text and object": ({"user_id": "u1", "payload": Document(SECRET)}, {}, "no single value"),
    "two known keys": ({"input": SECRET, "question": SECRET}, {}, "input, question"),
    "nested dict": ({"input": {"text": SECRET}}, {}, "dict"),
    "no such key": ({"questoin": SECRET, "b": 1}, {"input_key": "question"}, "did you mean 'questoin'"),
    "key but no dict": (SECRET, {"input_key": "question"}, "needs a dict"),
    "function fails": ({SECRET: 1}, {"input_key": lambda value: value[SECRET + "!"]}, "KeyError"),
    "function finds nothing": (SECRET, {"input_key": lambda _: None}, "NoneType"),
}


@pytest.mark.parametrize("form", UNREADABLE)
def test_an_unreadable_input_is_an_error_that_helps_and_quotes_nothing(form: str) -> None:
    value, settings, hint = UNREADABLE[form]
    with pytest.raises(InputError) as caught:
        read_input(value, **settings)
    assert hint in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(("kept", "expected"), [(0, []), (1, ["t8"]), (6, [f"t{i}" for i in range(3, 9)]), (99, None)])
def test_context_is_bounded(kept: int, expected: list[str] | None) -> None:
    messages: list[BaseMessage] = [A(f"t{i}") if i % 2 else H(f"t{i}") for i in range(8)]
    found = read_input([*messages, A("t8"), TOOL, S("system"), A(" "), H("now")], context_turns=kept)
    assert isinstance(found, Check)
    assert [turn.text for turn in found.context] == ([f"t{i}" for i in range(9)] if expected is None else expected)


CONTENT: dict[str, tuple[object, str]] = {
    "strings and blocks": (["a", {"type": "text", "text": "b"}, IMAGE, "c"], "abc"),
    "openai responses": ([{"type": "input_text", "text": "hi"}], "hi"),
    "bedrock": ([{"text": "hi"}], "hi"),
    "bedrock document": ([{"document": {"name": "x", "source": {"text": "hi"}}}], "x\nhi"),
    "plain text block": ([{"type": "text-plain", "mime_type": "text/plain", "text": "hi"}], "hi"),
    "anthropic text document": ([{"type": "document", "source": {"type": "text", "data": "hi"}}], "hi"),
    "anthropic content document": ([{"type": "document", "source": {"type": "content", "content": ["hi"]}}], "hi"),
    "anthropic title": (
        [{"type": "document", "title": "hi", "source": {"type": "base64", "data": "JVBERi0AAP8="}}],
        "hi",
    ),
    "tool result": ([{"type": "tool_result", "content": [{"type": "text", "text": "hi"}]}], "hi"),
    "non-standard": ([{"type": "non_standard", "value": {"text": "hi"}}], "hi"),
    "two places": ([{"type": "text", "text": "a", "content": "b"}], "ab"),
    "image": ([{"type": "image", "source": {"type": "base64", "data": "aGk="}}], ""),
    "bytes of a file": ([{"type": "file", "mime_type": "application/pdf", "data": b"%PDF\x00"}], ""),
    "not text": ([{"type": "text", "text": 7}, 7, None, b"\x00\xff"], ""),
}


@pytest.mark.parametrize("form", CONTENT)
def test_every_block_that_a_provider_shows_as_text_is_read(form: str) -> None:
    content, text = CONTENT[form]
    assert text_in(content) == text


@pytest.mark.parametrize(
    "content", ["hi", ["a", "b"], [{"type": "text", "text": "a"}, IMAGE], [{"type": "text", "text": "a", "id": "lc_1"}]]
)
def test_standard_blocks_read_as_langchain_reads_them(content: list[str | dict[str, Any]]) -> None:
    assert text_in(content) == AIMessageChunk(content=content).text


@pytest.mark.parametrize(("levels", "read"), [(5, True), (100, True), (2000, False)])
def test_blocks_are_read_however_deep_they_are_nested_or_refused(levels: int, read: bool) -> None:
    block: dict[str, object] = {"text": SECRET}
    for _ in range(levels):
        block = {"content": [block]}
    if read:
        assert SECRET in text_in([block])
        return
    with pytest.raises(InputError) as caught:
        text_in([block])
    assert SECRET not in str(caught.value)


def test_thoughts_and_calls_of_earlier_answers_are_no_context() -> None:
    said = A(
        [
            {"type": "thinking", "thinking": "hm", "signature": "x"},
            {"type": "text", "text": "b"},
            {"type": "tool_use", "id": "1", "name": "search", "input": {"q": "tea"}},
        ]
    )
    found = read_input([H("a"), said, H("c")])
    assert isinstance(found, Check)
    assert found.context == turns(("user", "a"), ("assistant", "b"))
