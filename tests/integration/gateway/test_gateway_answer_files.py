"""Images and files in what a model says, or is made to have said: no rail can read them, so they do not pass."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from guardrail_gateway import GatewaySettings, create_app
from guardrail_gateway.reading import whole_choice
from guardrail_gateway.testing import Script, ScriptedUpstream, serving
from guardrail_plugin.flow.rails import UNCHECKABLE_BESIDE_ANSWER
from guardrail_plugin.runnables.answers import Asked, read_answer
from guardrail_plugin.testing import ScriptedGuardian

PIXELS = base64.b64encode(b"\x89PNG\r\n\x1a\n\x00 pixels").decode()
LINK = f"data:image/png;base64,{PIXELS}"
IMAGE = {"type": "image_url", "image_url": {"url": LINK}}
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
HELLO: dict[str, dict[str, Any]] = {
    CHAT: {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    RESPONSES: {"model": "m", "input": "hi"},
}
MADE = {"type": "image_generation_call", "id": "i", "status": "completed", "result": PIXELS, "revised_prompt": "a cat"}

ANSWERS: dict[str, tuple[str, Script]] = {
    "a block of the content": (CHAT, Script(deltas=({"content": [{"type": "text", "text": "Here it is."}, IMAGE]},))),
    "beside the content": (CHAT, Script(deltas=("Here it is. ", {"images": [IMAGE]}, "And more words."))),
    "beside the content, bare": (CHAT, Script(deltas=("Here it is. ", {"images": [PIXELS]}, "And more words."))),
    "an object for its content": (CHAT, Script(deltas=({"content": IMAGE},))),
    "spoken": (CHAT, Script(deltas=("Listen. ", {"audio": {"id": "a", "data": "AAAA", "transcript": "Hello."}}))),
    "an unknown field": (CHAT, Script(deltas=("Here it is. ",), extra={"pictures": [IMAGE]})),
    "an image that was made": (RESPONSES, Script(deltas=("Here it is. ", MADE))),
    "an image alone": (RESPONSES, Script(deltas=(MADE,))),
    "a picture on its way": (
        RESPONSES,
        Script(events=({"type": "response.image_generation_call.partial_image", "partial_image_b64": PIXELS},)),
    ),
}


@pytest.fixture
def answering(behind: ScriptedUpstream) -> Iterator[Callable[[Script], None]]:
    """Sets what the upstream answers."""
    before = behind.script

    def answer(script: Script) -> None:
        behind.script = script

    yield answer
    behind.script = before


@pytest.fixture(scope="module")
def permissive(settings: GatewaySettings, guardian: ScriptedGuardian) -> Iterator[httpx2.Client]:
    told = replace(settings, on_uncheckable="allow")
    with (
        serving(create_app(told, guardian=guardian), told) as url,
        httpx2.Client(base_url=url, timeout=20.0, trust_env=False) as made,
    ):
        yield made


def streams(case: str) -> list[bool]:
    return (
        [True]
        if case in ("a picture on its way", "a block of the content", "an object for its content")
        else [False, True]
    )


@pytest.mark.parametrize(("case", "stream"), [(case, stream) for case in ANSWERS for stream in streams(case)])
def test_an_answer_with_what_no_rail_can_read_is_not_shown(
    http: httpx2.Client,
    permissive: httpx2.Client,
    answering: Callable[[Script], None],
    case: str,
    stream: bool,
) -> None:
    path, script = ANSWERS[case]
    answering(script)
    told = http.post(path, json={**HELLO[path], "stream": stream}).text
    assert PIXELS not in told
    assert "AAAA" not in told
    assert "content_filter" in told
    assert UNCHECKABLE_BESIDE_ANSWER in told or "holds no text" in told
    passed = permissive.post(path, json={**HELLO[path], "stream": stream}).text
    assert PIXELS in passed or "AAAA" in passed
    assert "content_filter" not in passed


def test_a_block_of_a_whole_answers_content() -> None:
    choice = {"message": {"content": [{"type": "text", "text": "Here it is."}, IMAGE]}}
    assert read_answer(whole_choice({}, choice, first=True), Asked(), None).beside is not None
    choice = {"message": {"content": "Here it is."}}
    assert read_answer(whole_choice({}, choice, first=True), Asked(), None).beside is None


@pytest.mark.parametrize("stream", [False, True])
def test_the_text_beside_an_image_is_judged_as_ever(
    permissive: httpx2.Client, answering: Callable[[Script], None], stream: bool
) -> None:
    answering(Script(deltas=("Here it is. ", {**MADE, "revised_prompt": "a bomb"})))
    told = permissive.post(RESPONSES, json={**HELLO[RESPONSES], "stream": stream}).text
    assert "bomb" not in told
    assert PIXELS not in told


def test_an_image_as_base64_is_not_judged_as_text(
    permissive: httpx2.Client, guardian: ScriptedGuardian, answering: Callable[[Script], None]
) -> None:
    answering(Script(deltas=("Here it is. ", MADE)))
    for stream in (False, True):
        guardian.batches.clear()
        assert permissive.post(RESPONSES, json={**HELLO[RESPONSES], "stream": stream}).status_code == 200
        assert not any(PIXELS in check.text for check in guardian.checks)


@pytest.mark.parametrize("stream", [False, True])
def test_encrypted_thoughts_are_no_files(
    http: httpx2.Client, answering: Callable[[Script], None], stream: bool
) -> None:
    answering(Script(deltas=("Hello. ", {"reasoning_details": [{"type": "reasoning.encrypted", "data": "AAAA"}]})))
    assert "content_filter" not in http.post(CHAT, json={**HELLO[CHAT], "stream": stream}).text


SHOWN = {"role": "assistant", "content": [{"type": "text", "text": "I drew this."}, IMAGE]}
USED = [
    {"role": "assistant", "content": "Look: ", "images": [IMAGE], "tool_calls": []},
    {"role": "tool", "tool_call_id": "c", "content": "ok"},
]


@pytest.mark.parametrize(
    "turns",
    [
        [{"role": "user", "content": "hi"}, SHOWN, {"role": "user", "content": "go on"}],
        [{"role": "user", "content": "hi"}, *USED],
    ],
)
def test_an_image_in_the_models_name_is_withheld(
    http: httpx2.Client, permissive: httpx2.Client, behind: ScriptedUpstream, turns: list[Any]
) -> None:
    assert http.post(CHAT, json={"model": "m", "messages": turns}).status_code == 200
    assert PIXELS not in json.dumps(behind.bodies)
    assert "withheld by a safety check" in json.dumps(behind.bodies[-1])
    assert permissive.post(CHAT, json={"model": "m", "messages": turns}).status_code == 200
    assert behind.bodies[-1]["messages"] == turns


def test_an_image_in_an_answer_begun_by_the_client_stops_it(http: httpx2.Client, behind: ScriptedUpstream) -> None:
    turns = [{"role": "user", "content": "hi"}, SHOWN]
    assert "content_filter" in http.post(CHAT, json={"model": "m", "messages": turns}).text
    assert behind.bodies == []


@pytest.mark.parametrize("earlier", [True, False])
def test_an_image_that_the_model_is_said_to_have_made_is_withheld(
    http: httpx2.Client, behind: ScriptedUpstream, earlier: bool
) -> None:
    items: list[Any] = [{"role": "user", "content": "hi"}, MADE]
    items += [{"role": "user", "content": "Now in blue."}] if earlier else []
    assert http.post(RESPONSES, json={"model": "m", "input": items}).status_code == 200
    assert PIXELS not in json.dumps(behind.bodies)
    assert json.dumps(behind.bodies).count("image_generation_call") == 1


def test_an_image_among_a_prompts_variables_stops_it(http: httpx2.Client, behind: ScriptedUpstream) -> None:
    prompt = {"id": "p", "variables": {"what": "a cat", "like": {"type": "input_image", "image_url": LINK}}}
    answer = http.post(RESPONSES, json={"model": "m", "input": "hi", "prompt": prompt})
    assert "content_filter" in answer.text
    assert behind.bodies == []
