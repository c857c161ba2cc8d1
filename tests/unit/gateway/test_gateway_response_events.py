"""Streamed responses: whatever an event says is judged, wherever it says it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail_gateway.responses_events import EventReader
from guardrail_gateway.responses_messages import closed, numbered, opened, said, text_item
from guardrail_gateway.responses_reading import whole_answer
from guardrail_plugin.runnables.blocks import call_checks, part_of

KINDS = (
    "response.created", "response.in_progress", "response.output_item.added", "response.output_item.done",
    "response.content_part.added", "response.content_part.done", "response.output_text.delta",
    "response.output_text.done", "response.refusal.delta", "response.reasoning_text.delta",
    "response.function_call_arguments.delta", "response.function_call_arguments.done", "response.new_kind",
    "response.new_kind.delta", "response.completed", "response.incomplete", "response.failed", "",
)  # fmt: skip
ITEMS = ("message", "reasoning", "function_call", "web_search_call", "new_item")
WORD = "<word>"

values = st.recursive(
    st.just(WORD),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(("text", "note", "content", "arguments", "summary", "title")), inner, max_size=2
        )
    ),
    max_leaves=4,
)
items = st.fixed_dictionaries(
    {"type": st.sampled_from(ITEMS)},
    optional={"content": values, "arguments": values, "summary": values, "name": st.just(WORD), "note": values},
)
responses = st.fixed_dictionaries(
    {"id": st.just("r")}, optional={"output": st.lists(items, max_size=2), "note": values, "error": values}
)
events = st.fixed_dictionaries(
    {"type": st.sampled_from(KINDS)},
    optional={
        "delta": values, "text": values, "arguments": values, "note": values, "part": values, "item": items,
        "response": responses, "item_id": st.just("i"),
    },
)  # fmt: skip


def told(value: object, names: Iterator[int]) -> Any:
    """Return the value with every word made another one."""
    if isinstance(value, dict):
        return {key: told(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [told(inner, names) for inner in value]
    return f"w{next(names)}." if value == WORD else value


@given(st.lists(events, max_size=6))
@settings(max_examples=300, deadline=None)
def test_every_word_of_every_event_is_judged(stream: list[Any]) -> None:
    names = itertools.count(1)
    reader, judged = EventReader(), ""
    for event in told(stream, names):
        part = reader.read(event)
        judged += part.answer + part.reasoning
    judged += " ".join(check.text for check in reader.rest())
    assert [n for n in range(1, next(names)) if f"w{n}." not in judged] == []


@given(st.fixed_dictionaries({"output": st.lists(items | st.just(WORD), max_size=3)}, optional={"note": values}))
@settings(max_examples=200, deadline=None)
def test_every_word_of_a_whole_response_is_judged(response: Any) -> None:
    names = itertools.count(1)
    message = whole_answer(told(response, names))
    part = part_of(message)
    judged = part.answer + part.reasoning + " ".join(check.text for check in call_checks(message))
    assert [n for n in range(1, next(names)) if f"w{n}." not in judged] == []


def test_what_is_nested_deeply_is_judged() -> None:
    deep: Any = "a bomb"
    for _ in range(200):
        deep = [deep]
    reader = EventReader()
    assert reader.read({"type": "response.new_kind", "note": deep}).acts
    assert any("a bomb" in check.text for check in reader.rest())


@pytest.mark.parametrize("text", ["Hello. How are you?", '{"a": "b"}'])
def test_an_ordinary_answer_is_judged_once(text: str) -> None:
    item = text_item(text)
    whole = {"id": "r", "status": "completed", "instructions": "Be kind.", "output": [item]}
    stream = [*opened(item, index=0), said(item, text, index=0), *closed(item, text, index=0)]
    reader = EventReader()
    for event in numbered([*stream, {"type": "response.completed", "response": whole}]):
        reader.read(event)
    assert [check.text for check in reader.rest()] == [text]
    assert reader.text == text


@pytest.mark.parametrize(
    "item",
    [
        {"type": "mcp_call", "name": "f", "arguments": "{}", "output": "сказано"},
        {"type": ["no", "name"], "text": "сказано"},
    ],
)
def test_every_language_is_judged_as_it_is_written(item: dict[str, Any]) -> None:
    message = whole_answer({"output": [item]})
    part = part_of(message)
    checks = call_checks(message) if part.acts else ()
    assert any("сказано" in text for text in (part.answer, *(check.text for check in checks)))


def test_log_probabilities_are_no_part_of_an_answer() -> None:
    part = {"type": "output_text", "text": "The cat sat."}
    tokens = [{"token": "The", "logprob": 0.0, "top_logprobs": [{"token": "A", "logprob": -1.0}]}]
    plain = whole_answer({"output": [{"type": "message", "role": "assistant", "content": [part]}]})
    told = whole_answer(
        {"output": [{"type": "message", "role": "assistant", "content": [{**part, "logprobs": tokens}]}]}
    )
    assert told == plain


REASONING = {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": "AAAA"}


@pytest.mark.parametrize(
    ("event", "acts"),
    [
        ({"type": "response.output_item.done", "output_index": 0, "item": REASONING}, False),
        ({"type": "response.web_search_call.in_progress", "item_id": "ws_1", "output_index": 1}, False),
        ({"type": "response.reasoning_summary_text.done", "item_id": "rs_1", "text": "Think first."}, False),
        ({"type": "response.reasoning_summary_text.done", "item_id": "rs_1", "text": "Think again."}, True),
        ({"type": "response.output_text.done", "item_id": "m", "text": "An answer."}, False),
        ({"type": "response.output_text.done", "item_id": "m", "text": "An answer. And more"}, True),
        ({"type": "response.new_kind", "notes": ["An", "other"]}, True),
        ({"type": "response.code.delta", "item_id": "i", "delta": "An"}, True),
        ({"type": "response.shell_call_output_content.delta", "item_id": "i", "delta": {"stdout": "An"}}, True),
        ({"type": "response.output_item.done", "item": {"type": "function_call", "name": "", "arguments": ""}}, True),
        ({"type": "response.image_generation_call.partial_image", "partial_image_b64": "AAAA"}, True),
        ({"type": "response.completed", "response": {"output": []}}, True),
    ],
)
def test_only_what_says_something_new_waits_for_the_end(event: dict[str, Any], acts: bool) -> None:
    reader = EventReader()
    reader.read({"type": "response.reasoning_summary_text.delta", "item_id": "rs_1", "delta": "Think first."})
    reader.read({"type": "response.output_text.delta", "item_id": "m", "delta": "An answer."})
    assert reader.read(event).acts == acts
