"""Agent loops through the gateway: what a request repeats of the model's own steps."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anyio.to_thread
import httpx2
import pytest

from guardrail_gateway.testing import ScriptedUpstream
from guardrail_plugin.testing import ScriptedGuardian

WITHHELD = "This message was withheld by a safety check."
Turn = dict[str, Any]
USER: Turn = {"role": "user", "content": "Tidy up."}


def call(arguments: Any = "{}", *, number: int = 1) -> Turn:
    return {"id": f"c{number}", "type": "function", "function": {"name": "search", "arguments": arguments}}


def step(content: str | None = None, *calls: Turn, **more: Any) -> Turn:
    return {"role": "assistant", "content": content, "tool_calls": list(calls or [call()]), **more}


def output(content: str = "ok", *, number: int = 1) -> Turn:
    return {"role": "tool", "tool_call_id": f"c{number}", "content": content}


def chat(http: httpx2.Client, turns: list[Turn]) -> httpx2.Response:
    return http.post("/v1/chat/completions", json={"model": "m", "messages": turns})


def respond(http: httpx2.Client, items: list[Turn]) -> httpx2.Response:
    return http.post("/v1/responses", json={"model": "m", "input": items})


@pytest.mark.parametrize(
    "asked",
    [
        {"role": "assistant", "tool_calls": [call()]},
        step(None, call('{"a": ')),
        step(None, call(None)),
        step(None, call({"a": 1})),
        step(None, {"id": "c1", "type": "custom", "custom": {"name": "search", "input": "x"}}),
        {"role": "assistant", "function_call": {"name": "search", "arguments": "{"}},
    ],
    ids=["no content", "no JSON", "null", "object", "custom", "legacy"],
)
def test_a_tool_loop_goes_on_whatever_the_call_looks_like(
    http: httpx2.Client, behind: ScriptedUpstream, asked: Turn
) -> None:
    turns = [USER, asked, output()]
    assert chat(http, turns).status_code == 200
    assert behind.bodies[-1]["messages"] == turns


def test_each_step_is_judged_once_as_an_answer(http: httpx2.Client, guardian: ScriptedGuardian) -> None:
    turns: list[Turn] = [{"role": "user", "content": "Count the files, once more."}]
    for number in range(4):
        turns += [step(f"Step {number}.", call(json.dumps({"n": number}), number=number)), output(number=number)]
        guardian.batches.clear()
        assert chat(http, turns).status_code == 200
        answers = [check for check in guardian.checks[:-1] if check.rail == "output"]
        assert [(check.text, check.query) for check in answers] == [(f"Step {number}.", turns[0]["content"])]
        assert [check.text for check in guardian.checks if check.rail == "tool_call"] == [f'search {{"n": {number}}}']
        assert not [check for check in guardian.checks if "Step" in check.text and check.rail == "input"]


BAD = call('{"q": "a bomb"}')


@pytest.mark.parametrize(
    "bad",
    [
        step("I shall build a bomb."),
        step(None, BAD),
        step("Hm.", reasoning_content="a bomb"),
        step("Hm.", reasoning_details=[{"type": "reasoning.text", "text": "a bomb"}]),
        step("Hm.", thinking="a bomb"),
        step("Hm.", refusal="no bomb"),
        step("Hm.", name="the bomb man"),
        step(None, {"id": "c1", "type": "custom", "custom": {"name": "search", "input": "a bomb"}}),
        {"role": "assistant", "content": None, "function_call": {"name": "search", "arguments": "a bomb"}},
    ],
)
def test_a_harmful_step_is_withheld_and_the_request_goes_on(
    http: httpx2.Client, behind: ScriptedUpstream, bad: Turn
) -> None:
    answer = chat(http, [USER, bad, output(), step("Fine."), output()])
    assert answer.status_code == 200
    assert answer.headers["x-guardrail-verdict"].startswith("allow")
    said = behind.bodies[-1]["messages"]
    assert "bomb" not in json.dumps(said)
    assert said[1]["content"] == WITHHELD
    assert [made["id"] for made in said[1].get("tool_calls", [])] == [m["id"] for m in bad.get("tool_calls", [])]
    assert said[2:] == [output(), step("Fine."), output()]


def test_an_earlier_turn_is_withheld_with_its_calls(http: httpx2.Client, behind: ScriptedUpstream) -> None:
    asked = {"role": "user", "content": "a bomb"}
    go_on = {"role": "user", "content": "go on"}
    assert chat(http, [asked, step(None, BAD), output(), step("x", BAD), go_on]).status_code == 200
    said = behind.bodies[-1]["messages"]
    assert "bomb" not in json.dumps(said)
    assert [turn.get("tool_calls", [{}])[0].get("id") for turn in said] == [None, "c1", None, "c1", None]
    assert said[1]["tool_calls"] == [call("{}")]
    items = [asked, {"type": "function_call", "call_id": "c", "name": "search", "arguments": '{"q": "bomb"}'}, go_on]
    assert respond(http, items).status_code == 200
    assert behind.bodies[-1]["input"][1] == {**items[1], "arguments": "{}"}


def test_a_tools_name_is_judged_where_it_says_something(http: httpx2.Client, behind: ScriptedUpstream) -> None:
    assert chat(http, [USER, step(), {**output(), "name": "a bomb"}]).status_code == 200
    assert "bomb" not in json.dumps(behind.bodies)


OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "ok"}


@pytest.mark.parametrize(
    "item",
    [
        {"type": "function_call", "call_id": "c", "name": "search", "arguments": '{"q": "a bomb"}'},
        {"type": "custom_tool_call", "call_id": "c", "name": "search", "input": "a bomb"},
        {"type": "web_search_call", "id": "w", "status": "completed", "action": {"type": "search", "query": "a bomb"}},
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "a bomb"}]},
        {"type": "message", "role": "assistant", "id": "m", "content": [{"type": "output_text", "text": "a bomb"}]},
        {"type": "mcp_call", "id": "m", "server_label": "s", "name": "n", "arguments": "{}", "output": "a bomb"},
        {"type": "file_search_call", "id": "f", "queries": ["x"], "results": [{"text": "a bomb", "score": 0.1}]},
        {
            "type": "code_interpreter_call",
            "id": "i",
            "code": "1",
            "container_id": "x",
            "outputs": [{"type": "logs", "logs": "a bomb"}],
        },
    ],
    ids=lambda item: item["type"],
)
def test_harmful_items_of_the_models_are_withheld(http: httpx2.Client, behind: ScriptedUpstream, item: Turn) -> None:
    harmless = {"type": "function_call", "call_id": "c", "name": "search", "arguments": "{}"}
    answer = respond(http, [USER, item, harmless, OUTPUT])
    assert answer.status_code == 200, answer.text
    sent = behind.bodies[-1]["input"]
    assert "bomb" not in json.dumps(sent)
    assert [turn.get("type", "message") for turn in sent[1:]] == [item["type"], "function_call", OUTPUT["type"]]
    assert sent[2:] == [harmless, OUTPUT]


@pytest.mark.parametrize(("path", "key"), [("/v1/chat/completions", "messages"), ("/v1/responses", "input")])
def test_large_bodies_are_read_in_a_thread(
    http: httpx2.Client, monkeypatch: pytest.MonkeyPatch, path: str, key: str
) -> None:
    ran: list[str] = []
    real = anyio.to_thread.run_sync

    async def noting(work: Any, *given: Any, **more: Any) -> Any:
        assert asyncio.get_running_loop()
        ran.append(getattr(work, "__name__", ""))
        return await real(work, *given, **more)

    monkeypatch.setattr(anyio.to_thread, "run_sync", noting)
    for text, times in (("hi", 0), ("hi " * 30_000, 1)):
        ran.clear()
        assert http.post(path, json={"model": "m", key: [{"role": "user", "content": text}]}).status_code == 200
        assert (ran.count("parse"), ran.count("read")) == (times, times)
