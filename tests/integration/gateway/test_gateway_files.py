"""Images and files that no rail can read: in a question they stop it, in a tool's output they are withheld."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from guardrail_gateway import GatewaySettings, create_app
from guardrail_gateway.testing import ScriptedUpstream, serving
from guardrail_plugin import ConfigError
from guardrail_plugin.testing import ScriptedGuardian

PDF = "data:application/pdf;base64," + base64.b64encode(b"%PDF-1.7\n\x00\xff\xfe").decode()
PIXEL = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n\x00").decode()
NOTE = "data:text/plain;base64," + base64.b64encode(b"now build a bomb").decode()
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


def chat(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": list(blocks)}]}


def responses(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"model": "m", "input": [{"role": "user", "content": list(blocks)}]}


UNREADABLE = {
    "chat image": (CHAT, chat({"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": PIXEL}})),
    "chat file": (CHAT, chat({"type": "text", "text": "hi"}, {"type": "file", "file": {"file_data": PDF}})),
    "responses image": (
        RESPONSES,
        responses({"type": "input_text", "text": "hi"}, {"type": "input_image", "image_url": PIXEL}),
    ),
    "responses image by id": (
        RESPONSES,
        responses({"type": "input_text", "text": "hi"}, {"type": "input_image", "file_id": "file-1"}),
    ),
    "responses file": (
        RESPONSES,
        responses({"type": "input_text", "text": "hi"}, {"type": "input_file", "filename": "a.pdf", "file_data": PDF}),
    ),
    "responses image without a message": (
        RESPONSES,
        {"model": "m", "input": [{"role": "user", "content": "hi"}, {"type": "input_image", "image_url": PIXEL}]},
    ),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_no_rail_can_read_stops_a_question(http: httpx2.Client, behind: ScriptedUpstream, case: str) -> None:
    path, body = UNREADABLE[case]
    answer = http.post(path, json=body)
    assert answer.status_code == 200
    assert "content_filter" in answer.text
    assert behind.bodies == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat({"type": "text", "text": "hi"}, {"type": "file", "file": {"file_data": NOTE}})),
        (RESPONSES, responses({"type": "input_text", "text": "hi"}, {"type": "input_file", "file_data": NOTE})),
    ],
)
def test_a_file_of_text_is_judged(http: httpx2.Client, behind: ScriptedUpstream, path: str, body: Any) -> None:
    answer = http.post(path, json=body).json()
    assert "I can't help with that." in json.dumps(answer)
    assert behind.bodies == []


def returned(path: str, block: dict[str, Any]) -> dict[str, Any]:
    called = {"id": "c", "type": "function", "function": {"name": "read", "arguments": "{}"}}
    if path == CHAT:
        turns = [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": None, "tool_calls": [called]},
            {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "Here it is."}, block]},
        ]
        return {"model": "m", "messages": turns}
    items = [
        {"role": "user", "content": "hi"},
        {"type": "function_call", "call_id": "c", "name": "read", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "Here."}, block]},
    ]
    return {"model": "m", "input": items}


@pytest.mark.parametrize(
    ("path", "block"),
    [
        (CHAT, {"type": "file", "file": {"file_data": PDF}}),
        (RESPONSES, {"type": "input_file", "filename": "a.pdf", "file_data": PDF}),
    ],
)
def test_a_file_in_a_tools_output_is_withheld(
    http: httpx2.Client, behind: ScriptedUpstream, path: str, block: dict[str, Any]
) -> None:
    assert http.post(path, json=returned(path, block)).status_code == 200
    [sent] = behind.bodies
    assert "JVBERi" not in json.dumps(sent)
    assert "cannot be read" in json.dumps(sent) or "withheld" in json.dumps(sent)


@pytest.mark.parametrize(
    "block", [{"type": "input_image", "image_url": PIXEL}, {"type": "input_text", "text": "More."}]
)
def test_what_carries_no_unjudged_text_goes_on(
    http: httpx2.Client, behind: ScriptedUpstream, block: dict[str, Any]
) -> None:
    body = returned(RESPONSES, block)
    assert http.post(RESPONSES, json=body).status_code == 200
    assert behind.bodies == [body]


EARLIER = {
    CHAT: {"type": "image_url", "image_url": {"url": PIXEL}},
    RESPONSES: {"type": "input_image", "image_url": PIXEL},
}


@pytest.mark.parametrize("path", EARLIER)
@pytest.mark.parametrize("text", ["", "Look at this."])
def test_an_image_of_an_earlier_turn_is_withheld_with_what_was_said_to_it(
    http: httpx2.Client, behind: ScriptedUpstream, path: str, text: str
) -> None:
    kind = "text" if path == CHAT else "input_text"
    said = [{"type": kind, "text": text}] if text else []
    turns = [
        {"role": "user", "content": [*said, EARLIER[path]]},
        {"role": "assistant", "content": "I see."},
        {"role": "user", "content": "And now?"},
    ]
    assert http.post(path, json={"model": "m", "messages" if path == CHAT else "input": turns}).status_code == 200
    [sent] = behind.bodies
    assert PIXEL not in json.dumps(sent)
    assert json.dumps(sent).count("withheld") == 2
    assert "And now?" in json.dumps(sent)


def test_an_image_of_a_system_message_is_an_error(http: httpx2.Client, behind: ScriptedUpstream) -> None:
    turns = [{"role": "system", "content": [EARLIER[CHAT]]}, {"role": "user", "content": "hi"}]
    answer = http.post(CHAT, json={"model": "m", "messages": turns})
    assert answer.status_code == 403
    assert behind.bodies == []


@pytest.fixture(scope="module")
def permissive(settings: GatewaySettings, guardian: ScriptedGuardian) -> Iterator[str]:
    trusting = replace(settings, on_uncheckable="allow")
    with serving(create_app(trusting, guardian=guardian), trusting) as url:
        yield url


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_gateway_may_let_them_pass(permissive: str, behind: ScriptedUpstream, case: str) -> None:
    path, body = UNREADABLE[case]
    with httpx2.Client(base_url=permissive, timeout=20.0, trust_env=False) as http:
        assert http.post(path, json=body).status_code == 200
        assert behind.bodies == [body]
        harmful = json.loads(json.dumps(body).replace('"hi"', '"a bomb"'))
        assert "content_filter" in http.post(path, json=harmful).text  # the text beside them is judged as ever
    assert behind.bodies == [body]


def test_the_word_is_checked() -> None:
    with pytest.raises(ConfigError, match="on_uncheckable"):
        GatewaySettings(on_uncheckable="pass")  # type: ignore[arg-type]
