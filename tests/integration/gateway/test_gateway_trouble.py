"""An upstream that fails, hangs or dies, and a guardian that gives no verdict: complete errors, no unchecked text."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx2
import openai
import pytest

from guardrail_gateway import GatewaySettings, create_app
from guardrail_gateway.testing import ScriptedUpstream, serving
from guardrail_plugin import InferenceError
from guardrail_plugin.testing import ScriptedGuardian


def body(text: str, *, stream: bool = False) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], "stream": stream}


def events(raw: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in raw.splitlines() if line.startswith("data: {")]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("question", "status", "code", "message"),
    [
        ("error 400", 400, "context_length_exceeded", "Too long by far."),
        ("error bad", 400, "invalid_value", "The model behind the gateway did not answer (400 invalid_value)."),
        ("error 429", 429, "rate_limit_exceeded", "Slow down."),
        ("error 500", 500, "server_error", "Oh no."),
    ],
)
def test_upstream_errors(
    http: httpx2.Client, question: str, status: int, code: str, message: str, stream: bool
) -> None:
    answer = http.post("/v1/chat/completions", json=body(question, stream=stream))
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["code"], error["message"]) == (code, message)


@pytest.mark.parametrize(
    ("question", "status", "code"), [("hang", 504, "upstream_timeout"), ("die", 500, "upstream_error")]
)
def test_a_silent_or_broken_upstream(
    http: httpx2.Client, impatient: httpx2.Client, question: str, status: int, code: str
) -> None:
    asked = impatient if question == "hang" else http
    answer = asked.post("/v1/chat/completions", json=body(question))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("question", "code"),
    [
        ("die", "upstream_unreachable"),
        ("hang", "upstream_timeout"),
        ("tell", "server_error"),
        ("swear", "server_error"),
        ("cut", "upstream_broke_off"),
    ],
)
def test_a_stream_that_breaks_off_ends_in_an_error(
    http: httpx2.Client, impatient: httpx2.Client, guardian: ScriptedGuardian, question: str, code: str
) -> None:
    guardian.batches.clear()
    asked = impatient if question == "hang" else http
    raw = asked.post("/v1/chat/completions", json=body(question, stream=True)).text
    told = events(raw)
    assert told[-1]["error"]["code"] == code
    assert "[DONE]" not in raw
    assert "bomb" not in raw
    assert not any(choice["finish_reason"] for event in told for choice in event.get("choices", ()))
    left = "".join(c["delta"].get("content") or "" for event in told for c in event.get("choices", ()))
    judged = [check.text for check in guardian.checks if check.rail == "output"]
    assert not left or any(text.startswith(left) for text in judged)
    assert "and on and on" not in left


def test_the_openai_client_raises_on_a_broken_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "die"}], stream=True)
    with pytest.raises(openai.APIError):
        list(stream)


@pytest.mark.parametrize(
    ("question", "status", "code", "retry_after"),
    [
        ("busy", 429, "overloaded", "3"),
        ("dead", 503, "unavailable", "5"),
        ("mute", 503, "unavailable", "5"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_no_verdict_about_a_question_is_an_http_error(
    http: httpx2.Client, behind: ScriptedUpstream, question: str, status: int, code: str, retry_after: str, stream: bool
) -> None:
    answer = http.post("/v1/chat/completions", json=body(question, stream=stream))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers["retry-after"] == retry_after
    assert not behind.bodies


def test_no_verdict_about_an_answer_is_an_error(http: httpx2.Client) -> None:
    whole = http.post("/v1/chat/completions", json=body("unjudged answer"))
    assert whole.status_code == 429
    assert "sentence" not in whole.text


def test_no_verdict_in_the_middle_of_a_stream_is_an_error_event(http: httpx2.Client) -> None:
    raw = http.post("/v1/chat/completions", json=body("unjudged answer", stream=True)).text
    assert events(raw)[-1]["error"]["code"] == "overloaded"
    assert "busy" not in raw
    assert "[DONE]" not in raw


def test_a_client_that_leaves_stops_the_upstream(gateway: str, behind: ScriptedUpstream) -> None:
    left, gone = behind.left, threading.Event()
    hang = behind._hang

    async def noted() -> None:
        try:
            await hang()
        finally:
            gone.set()

    behind._hang = noted  # type: ignore[method-assign]
    try:
        with (
            httpx2.Client(base_url=gateway, trust_env=False, timeout=20.0) as http,
            http.stream("POST", "/v1/chat/completions", json=body("hang", stream=True)) as answer,
        ):
            assert next(answer.iter_lines()).startswith("data: ")
        assert gone.wait(20.0), "long before the gateway would give the upstream up"
        assert behind.left == left + 1
    finally:
        behind._hang = hang  # type: ignore[method-assign]


def test_odd_header_values_are_not_passed_on(http: httpx2.Client, behind: ScriptedUpstream) -> None:
    odd = {"openai-organization": b"caf\xe9", "openai-project": b"mine", "authorization": b"Bearer \xe9"}
    assert http.post("/v1/chat/completions", json=body("hi"), headers=odd).status_code == 200
    assert "openai-organization" not in behind.headers[-1]
    assert "authorization" not in behind.headers[-1]
    assert behind.headers[-1]["openai-project"] == "mine"


class Quoting:
    """An upstream whose error was raised from one that quotes text."""

    provider = "quoting"

    async def ask(self, endpoint: str, body: Any, headers: Any) -> Any:
        raise InferenceError("the model failed") from ValueError(f"on {body}")

    open = ask

    async def models(self, headers: Any) -> Any:
        raise AssertionError("nobody asks")

    async def aclose(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("stream", [False, True])
def test_logs_hold_no_text_of_what_an_error_was_raised_from(
    guardian: ScriptedGuardian, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    settings = GatewaySettings(port=0)
    app = create_app(settings, guardian=guardian, upstream=Quoting())
    with serving(app, settings) as url, httpx2.Client(base_url=url, trust_env=False, timeout=20.0) as http:
        answer = http.post("/v1/chat/completions", json=body("a secret of mine", stream=stream))
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "check_failed")
    assert "InferenceError at" in caplog.text
    assert "the model failed" in caplog.text
    assert "secret" not in caplog.text
    assert "secret" not in answer.text
