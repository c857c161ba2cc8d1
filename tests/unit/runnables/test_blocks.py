"""What of a model's message is judged: content blocks, what stands beside them, and every place that repeats a call."""

from __future__ import annotations

import time
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.runnables import RunnableLambda
from pydantic import BaseModel

from guardrail_plugin import ToolPolicy, guard, guard_model
from guardrail_plugin.flow import Allowed, Blocked
from guardrail_plugin.runnables.blocks import call_checks, client_calls, part_of
from guardrail_plugin.runnables.guarded_model import Ended
from guardrail_plugin.runnables.withheld import MARK, withhold
from guardrail_plugin.testing import ScriptedGuardian, ScriptedModel, verdict

HARM = "send the BOMB"
FINE = {"type": "text", "text": "Fine."}


class Parsed(BaseModel):
    """A structured answer."""

    text: str


def judge() -> ScriptedGuardian:
    return ScriptedGuardian({"BOMB": verdict(risk=0.9, hazard="S9")}, respond="No.")


ANSWERS: dict[str, dict[str, Any]] = {
    "text that looks like a file": {"content": [{"type": "text", "text": "data:text/plain;base64,BOMB_and_more"}]},
    "unknown block": {"content": [FINE, {"type": "custom", "data": "BOMB"}]},
    "unknown block, an id": {"content": [FINE, {"type": "custom", "id": "BOMB"}]},
    "unknown block, a key": {"content": [FINE, {"type": "custom", HARM: 1}]},
    "unknown block, data in it": {"content": [FINE, {"type": "custom", "x": {"type": "y", "base64": "BOMB"}}]},
    "no kind": {"content": [FINE, {"status": "BOMB"}]},
    "sentence for a status": {"content": [{**FINE, "status": HARM}]},
    "untold data in text": {"content": [{**FINE, "data": "BOMB"}]},
    "signed thought": {"content": [FINE, {"type": "thinking", "thinking": HARM, "signature": "x"}]},
    "sentence for a signature": {"content": [FINE, {"type": "thinking", "thinking": "x", "signature": HARM}]},
    "text file": {"content": [FINE, {"type": "file", "base64": "Qk9NQg==", "mime_type": "text/plain"}]},
    "wrapped call": {"content": [FINE, {"type": "non_standard", "value": {"type": "x", "arguments": "BOMB"}}]},
    "a key with signature in it": {"content": "Fine.", "additional_kwargs": {"my_signature_note": "BOMB"}},
    "a sentence for a kwarg's signature": {"content": "Fine.", "additional_kwargs": {"signature": HARM}},
    "kwargs": {"content": "Fine.", "additional_kwargs": {"refusal": HARM}},
    "a model's object": {"content": "Fine.", "additional_kwargs": {"parsed": Parsed(text=HARM)}},
    "sound's transcript": {"content": "", "additional_kwargs": {"audio": {"data": "UklGRg==", "transcript": HARM}}},
    "metadata": {"content": "Fine.", "response_metadata": {"thinking": "BOMB"}},
    "metadata, deep": {"content": "Fine.", "response_metadata": {"grounding": [{"text": HARM}]}},
    "sentence for a model id": {"content": "Fine.", "additional_kwargs": {"model_id": HARM}},
    "sentence for an effort": {"content": "Fine.", "response_metadata": {"reasoning_effort": HARM}},
    "sentence for a finish reason": {"content": "Fine.", "response_metadata": {"finish_reason": HARM}},
    "name": {"content": "Fine.", "name": HARM},
}


@pytest.mark.parametrize("form", ANSWERS)
async def test_no_part_of_an_answer_leaves_unjudged(form: str) -> None:
    fields = ANSWERS[form]
    whole = guard(
        RunnableLambda(lambda _: AIMessage(**fields)), guardian=judge(), rails=("output",), output_type=AIMessage
    )
    assert "BOMB" not in repr([whole.invoke("hi"), await whole.ainvoke("hi")])
    streamed = guard(ScriptedModel([AIMessageChunk(**fields)]), guardian=judge(), rails=("output",))
    chunks = list(streamed.stream("hi")) + [chunk async for chunk in streamed.astream("hi")]
    assert "BOMB" not in repr(chunks)
    assert chunks[-1].text.strip() == "No."


QUIET: dict[str, dict[str, Any]] = {
    "ids": {"content": [{**FINE, "id": "msg_1", "index": "lc_txt_0", "phase": "final_answer"}]},
    "image": {"content": [FINE, {"type": "image", "base64": "iVBORw0KGgo=", "mime_type": "image/png"}]},
    "image link": {"content": [FINE, {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0K"}}]},
    "sound": {"content": "Fine.", "additional_kwargs": {"audio": {"id": "a_1", "data": "UklGRg==", "expires_at": 1}}},
    "signatures": {
        "content": [FINE],
        "additional_kwargs": {"signature": "Eu8B+w==", "__gemini_function_call_thought_signatures__": {"1": "Eu8B"}},
    },
    "metadata beside the content": {
        "content": "Fine.",
        "additional_kwargs": {"stop_reason": "end_turn", "model_id": "us.claude-v1:0", "usage": {"total_tokens": 3}},
    },
    "metadata": {
        "content": "Fine.",
        "response_metadata": {
            "reasoning_effort": "medium", "x_groq": {"id": "req_01", "seed": 1}, "stop_reason": "end_turn",
            "model_name": "gpt-4o-2024-08-06", "finish_reason": "stop", "created_at": "2026-01-01T00:00:00Z",
            "token_usage": {"total": 3}, "logprobs": {"content": [{"token": " the"}]}, "guardrail": {"hazard": "S9"},
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("form", QUIET)
def test_machinery_is_not_read_out_to_the_guardian(form: str) -> None:
    guardian = judge()
    answer = RunnableLambda(lambda _: AIMessage(**QUIET[form]))
    guard(answer, guardian=guardian, rails=("output",), output_type=AIMessage).invoke("hi")
    assert [check.text for check in guardian.checks] == ["Fine."]


def test_metadata_that_comes_with_every_chunk_does_not_break_up_the_answer() -> None:
    guardian = judge()
    chunks = [AIMessageChunk(text, response_metadata={"trace": "a b"}) for text in ("One ", "two ", "three.")]
    out = list(guard(ScriptedModel(chunks), guardian=guardian, rails=("output",)).stream("hi"))
    assert "".join(chunk.text for chunk in out) == "One two three."
    assert {check.text.strip() for check in guardian.checks} == {"One two three.", "a b"}


def ordering(arguments: str, block: dict[str, Any] | None = None, **kwargs: Any) -> AIMessageChunk:
    """Return an answer with one call, and what a provider puts beside it."""
    call = tool_call_chunk(name="mail", args=arguments, id="call_1", index=0)
    return AIMessageChunk([] if block is None else [block], tool_call_chunks=[call], additional_kwargs=kwargs)


def raw(arguments: str, **more: Any) -> list[dict[str, Any]]:
    return [{"id": "call_1", "type": "function", "function": {"name": "mail", "arguments": arguments}, **more}]


OK = '{"to": "bob"}'
ODD = '{"to": "BOMB"}'
BESIDE: dict[str, AIMessageChunk] = {
    "block of no call": ordering(OK, {"type": "tool_use", "id": "x", "name": "mail", "input": {"to": "BOMB"}}),
    "block with other arguments": ordering(
        OK, {"type": "tool_use", "id": "call_1", "name": "mail", "input": {"a": HARM}}
    ),
    "block with a note": ordering(OK, {"type": "tool_use", "id": "call_1", "input": {"to": "bob"}, "note": "BOMB"}),
    "block with a status": ordering(OK, {"type": "tool_use", "id": "call_1", "input": {"to": "bob"}, "status": HARM}),
    "block with another name": ordering(
        OK, {"type": "tool_use", "id": "call_1", "name": "BOMB", "input": {"to": "bob"}}
    ),
    "raw call": ordering(OK, tool_calls=raw(ODD)),
    "raw call, name": ordering(OK, tool_calls=[{"function": {"name": "BOMB", "arguments": OK}}]),
    "raw call with a note": ordering(OK, tool_calls=raw(OK, note="BOMB")),
    "raw call with a sentence for an id": ordering(OK, tool_calls=raw(OK, id=HARM)),
    "raw call, a word twice": ordering(OK, tool_calls=raw('{"to": "BOMB", "to": "bob"}')),
    "raw calls that are none": ordering(OK, tool_calls="BOMB"),
    "old form": ordering(OK, function_call={"name": "mail", "arguments": ODD}),
    "a word twice": ordering('{"to": "BOMB", "to": "bob"}'),
    "server tool, a status": AIMessageChunk([{"type": "server_tool_result", "status": HARM}]),
}


@pytest.mark.parametrize("form", BESIDE)
@pytest.mark.parametrize("tools", [None, ToolPolicy()], ids=["whole", "one by one"])
async def test_a_place_that_repeats_a_call_otherwise_is_judged(form: str, tools: ToolPolicy | None) -> None:
    model = guard_model(ScriptedModel([BESIDE[form]]), guardian=judge(), tools=tools)
    chunks = list(model.stream("hi")) + [chunk async for chunk in model.astream("hi")]
    assert "BOMB" not in repr([chunks, model.invoke("hi"), await model.ainvoke("hi")])


TWINS: dict[str, AIMessageChunk] = {
    "anthropic": ordering(OK, {"type": "tool_use", "id": "call_1", "name": "mail", "input": {"to": "bob"}}),
    "anthropic stream": ordering(
        OK, {"type": "tool_use", "id": "call_1", "name": "mail", "input": {}, "partial_json": OK, "index": 1}
    ),
    "anthropic caller": ordering(
        OK, {"type": "tool_use", "id": "call_1", "name": "mail", "input": {"to": "bob"}, "caller": {"type": "direct"}}
    ),
    "delta": ordering(OK, {"type": "input_json_delta", "partial_json": OK, "index": 1}),
    "openai responses": ordering(
        OK,
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "mail", "arguments": '{"to":"bob"}',
         "status": "completed"},
    ),
    "custom tool": ordering(
        '{"__arg1": "bob"}', {"type": "custom_tool_call", "id": "ctc_1", "call_id": "call_1", "input": "bob"}
    ),
    "v1": ordering(
        OK, {"type": "tool_call", "id": "call_1", "name": "mail", "args": {"to": "bob"}, "extras": {"item_id": "fc_1"}}
    ),
    "raw": ordering(OK, tool_calls=raw('{"to":"bob"}')),
    "old form": ordering(OK, function_call={"name": "mail", "arguments": '{"to": "b\\u006fb"}'}),
}  # fmt: skip


@pytest.mark.parametrize("form", TWINS)
def test_a_call_that_is_told_twice_is_judged_once(form: str) -> None:
    assert [check.rail for check in call_checks(TWINS[form])] == ["tool_call"]


@pytest.mark.parametrize("form", TWINS)
def test_a_withheld_call_is_told_nowhere(form: str) -> None:
    blocked = [Blocked("tool_call", "no", verdict(risk=1.0, hazard="S9", rail="tool_call"))]
    for message in (TWINS[form], AIMessage(**_fields(TWINS[form]))):
        safe = withhold(message, blocked)
        assert "bob" not in repr(safe)
        assert [call["args"] for call in safe.tool_calls] == [{MARK: "S9"}]


def _fields(chunk: AIMessageChunk) -> dict[str, Any]:
    return {name: getattr(chunk, name) for name in ("content", "tool_calls", "additional_kwargs")}


def test_the_block_of_a_call_that_goes_on_stays_beside_a_withheld_one() -> None:
    blocks = [
        {
            "type": "function_call",
            "id": f"fc_{name}",
            "call_id": name,
            "name": "mail",
            "arguments": f'{{"to": "{name}"}}',
        }
        for name in ("ann", "bob")
    ]
    calls = [{"name": "mail", "args": {"to": name}, "id": name, "type": "tool_call"} for name in ("ann", "bob")]
    message = AIMessage([FINE, *blocks], tool_calls=calls)
    safe = withhold(message, [Allowed("tool_call"), Blocked("tool_call", "no")])
    assert safe.content == [FINE, blocks[0]]


def test_unreadable_arguments_are_judged_as_they_leave() -> None:
    assert client_calls(ordering('{"to": "BOMB", "to": "bob"}')) == [("mail", '{"to": "BOMB", "to": "bob"}')]


def test_chunks_of_unknown_blocks_add_up_to_words() -> None:
    parts = [part_of(AIMessageChunk([{"type": "brand_new", "payload": {"caption": text}}])) for text in ("BO", "MB")]
    assert "".join(part.answer for part in parts) == "BOMB"


def called(arguments: dict[str, str]) -> AIMessage:
    return AIMessage("Fine.", id="m", tool_calls=[{"name": "mail", "args": arguments, "id": "1"}])


MADE: dict[str, tuple[BaseMessage, bool]] = {
    "the answer": (AIMessage("Fine.", id="m"), True),
    "the answer under an outer run's id": (AIMessage("Fine.", id="other"), True),
    "changed under its id": (AIMessage("Fine. And more.", id="m"), False),
    "a call that was not there": (called({"to": "x"}), False),
    "a call that was": (called({"to": "y"}), True),
    "a withheld call": (called({MARK: "S9"}), True),
}


@pytest.mark.parametrize("form", MADE)
def test_an_answer_is_known_by_what_it_says_and_not_by_its_id_alone(form: str) -> None:
    message, made = MADE[form]
    assert isinstance(message, AIMessage)
    assert Ended(Allowed("output"), "m", text="Fine.", calls=(("mail", {"to": "y"}),)).made(message) is made


def test_two_answers_without_an_id_are_not_the_same() -> None:
    assert not Ended(Allowed("output"), None).made(AIMessage([{"type": "custom", "data": HARM}]))


def repeated(count: int, *, ids: bool) -> AIMessage:
    """Return an answer whose every call is told three times, and once wrongly."""
    calls = [{"name": "mail", "args": {"n": n}, "id": f"c{n}", "type": "tool_call"} for n in range(count)]
    blocks = [
        {"type": "tool_use", "name": "mail", "input": {"n": n}, **({"id": f"c{n}"} if ids else {})}
        for n in range(count)
    ]
    raws = [raw(f'{{"n":{n}}}')[0] for n in range(count)]
    return AIMessage(
        [*blocks, {"type": "tool_use", "id": "c0", "name": "mail", "input": {"to": HARM}}],
        tool_calls=calls,
        additional_kwargs={"tool_calls": raws},
    )


@pytest.mark.parametrize("ids", [True, False])
def test_many_calls_that_are_repeated_are_judged_once_and_soon(ids: bool) -> None:
    def seconds(count: int) -> float:
        message = repeated(count, ids=ids)
        began = time.thread_time()
        checks = call_checks(message)
        assert len(checks) == count + 1
        assert any(HARM in check.text for check in checks)
        return time.thread_time() - began

    assert seconds(1600) / min(seconds(400) for _ in range(3)) < 12


def test_a_block_that_bears_another_calls_id_is_judged() -> None:
    calls = [{"name": "mail", "args": {"to": to}, "id": to, "type": "tool_call"} for to in ("ann", "bob")]
    message = AIMessage([{"type": "tool_use", "id": "bob", "name": "mail", "input": {"to": "ann"}}], tool_calls=calls)
    assert len(call_checks(message)) == 3
