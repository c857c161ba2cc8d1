"""The playground's files and endpoints on a real port: who may ask, what is told, and what never leaves."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from guardrail_gateway import GatewaySettings, Playground, create_app, read_keys
from guardrail_gateway.testing import Script, ScriptedUpstream, serving
from guardrail_plugin import ConfigError
from guardrail_plugin.testing import ScriptedGuardian

FILES = {"/playground": "text/html", "/playground/page.css": "text/css", "/playground/page.js": "text/javascript"}
BLOCKED_ANSWER = ("Now take the bomb", "do as I say", "Then run")
KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def url(upstream: tuple[ScriptedUpstream, str], guardian: ScriptedGuardian) -> Iterator[str]:
    settings = GatewaySettings(upstream=upstream[1], port=0, upstream_timeout_s=60.0)
    page = Playground(keep=4)
    with serving(create_app(settings, guardian=guardian, observers=[page], pages=page.pages), settings) as base:
        yield base


@pytest.fixture
def web(url: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=url, timeout=20.0, trust_env=False) as made:
        yield made


def ask(web: httpx2.Client, message: str) -> list[dict[str, Any]]:
    answer = web.post("/playground/ask", json={"message": message, "model": "m"})
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    return [json.loads(part[6:]) for part in answer.text.split("\n\n") if part]


def of(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["kind"] == kind]


@pytest.mark.parametrize(("path", "kind"), FILES.items())
def test_files_and_their_headers(web: httpx2.Client, path: str, kind: str) -> None:
    answer = web.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(kind)
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", FILES)
def test_nothing_comes_from_elsewhere_or_stands_inline(web: httpx2.Client, path: str) -> None:
    text = web.get(path).text
    for foreign in ("http:", "https:", "//cdn", "@import", "innerHTML", "style=", "onclick", "eval("):
        assert foreign not in text.replace("https://json-schema", ""), foreign


def test_an_allowed_question_and_answer(web: httpx2.Client) -> None:
    events = ask(web, "hello")
    question, answer = of(events, "rail")
    assert (question["rail"], question["action"], answer["rail"], answer["action"]) == (
        "input", "allow", "output", "allow",
    )  # fmt: skip
    released = "".join(event["text"] for event in of(events, "text"))
    assert released == "The first sentence is harmless. So is the second one here. And the third one, too."
    [end] = of(events, "end")
    assert (end["released"], end["dropped"], end["asked_model"], events[-1]) == (len(released), 0, True, end)
    assert of(events, "held")[-1]["characters"] == 0
    assert end["timing"]["queue_s"] is None
    assert end["timing"]["total_s"] >= end["timing"]["guardian_s"] >= 0


def test_a_blocked_question_never_reaches_the_model(web: httpx2.Client, behind: ScriptedUpstream) -> None:
    events = ask(web, "a bomb")
    assert [event["kind"] for event in events] == ["rail", "instead", "end"]
    rail = events[0]
    assert (rail["action"], rail["hazard"], rail["in_force"]) == ("block", "S9", 0.5)
    assert rail["decisions"] == [[0.0, "block"], [0.91, "allow"]]
    assert (events[-1]["asked_model"], events[-1]["timing"]["model_s"]) == (False, None)
    assert behind.bodies == []


def test_a_blocked_answer_is_a_number(web: httpx2.Client) -> None:
    events = ask(web, "evil answer")
    [end] = of(events, "end")
    released = "".join(event["text"] for event in of(events, "text"))
    assert (end["released"], end["dropped"] > 0) == (len(released), True)
    assert of(events, "instead")[0]["text"] == "I can't help with that."
    for words in BLOCKED_ANSWER:
        assert words not in json.dumps(events)


def test_a_developer_can_ask_to_see_it(upstream: tuple[ScriptedUpstream, str], guardian: ScriptedGuardian) -> None:
    settings = GatewaySettings(upstream=upstream[1], port=0)
    page = Playground(show_held=True)
    app = create_app(settings, guardian=guardian, pages=page.pages)
    with serving(app, settings) as base, httpx2.Client(base_url=base, timeout=20.0, trust_env=False) as client:
        assert client.get("/playground/about").json()["shows_held"] is True
        events = ask(client, "evil answer")
    [dropped] = of(events, "dropped")
    # The verdict stops the stream, so how much had been released or had come by then is a matter of time.
    seen = "".join(event["text"] for event in [*of(events, "text"), dropped])
    whole = "The first sentence is harmless. Now take the bomb and do as I say. Then run."
    assert whole.startswith(seen)
    assert BLOCKED_ANSWER[0] in dropped["text"]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("busy", "overloaded"),
        ("unjudged answer", "overloaded"),
        ("error 500", "server_error"),
        ("error bad", "invalid_value"),
        ("cut", "upstream_broke_off"),
    ],
)
def test_trouble_is_told_and_only_judged_text_leaves(
    web: httpx2.Client, guardian: ScriptedGuardian, message: str, code: str
) -> None:
    told_of_trouble(web, guardian, message, code)


def test_a_silent_model_is_told_of_too(upstream: tuple[ScriptedUpstream, str], guardian: ScriptedGuardian) -> None:
    settings = GatewaySettings(upstream=upstream[1], port=0, upstream_timeout_s=1.5)
    app = create_app(settings, guardian=guardian, pages=Playground().pages)
    with serving(app, settings) as base, httpx2.Client(base_url=base, timeout=20.0, trust_env=False) as client:
        told_of_trouble(client, guardian, "hang", "upstream_timeout")


def told_of_trouble(web: httpx2.Client, guardian: ScriptedGuardian, message: str, code: str) -> None:
    events = ask(web, message)
    assert events[-1]["kind"] == "error"
    assert events[-1]["code"] == code
    assert "bomb" not in events[-1]["message"]
    released = "".join(event["text"] for event in of(events, "text"))
    assert not released or any(released in check.text for check in guardian.checks if check.rail == "output")


@pytest.mark.parametrize(
    ("body", "status"),
    [({"message": ""}, 400), ({"message": 3}, 400), ({"message": "hi", "model": 3}, 400), ([], 400)],
)
def test_bad_bodies(web: httpx2.Client, body: object, status: int) -> None:
    assert web.post("/playground/ask", json=body).status_code == status


def test_forms_of_other_pages_cannot_ask(web: httpx2.Client) -> None:
    assert web.post("/playground/ask", content=b'{"message": "hi"}').status_code == 415


def test_the_last_verdicts(web: httpx2.Client) -> None:
    before = web.get("/playground/live").json()["last"]
    ask(web, "a bomb")
    told = web.get(f"/playground/live?after={before}").json()
    [row] = told["verdicts"]
    assert (row["rail"], row["action"], row["hazard"], row["risk"]) == ("input", "block", "S9", 0.9)
    assert set(row) == {"number", "at_s", "rail", "action", "hazard", "risk", "seconds", "error"}
    assert (told["last"], told["pool"], told["unready"]) == (before + 1, None, None)
    assert web.get(f"/playground/live?after={told['last']}").json()["verdicts"] == []
    for _ in range(3):
        ask(web, "hello")
    assert len(web.get("/playground/live").json()["verdicts"]) == 4
    assert len(web.get("/playground/live?after=99999").json()["verdicts"]) == 4
    assert web.get("/playground/live?after=x").status_code == 400


def test_about(web: httpx2.Client) -> None:
    told = web.get("/playground/about").json()
    assert told["hazards"]["S9"] == "Indiscriminate Weapons"
    assert (told["guardian"], told["embedded"], told["shows_held"]) == ("scripted", False, False)


def test_keys_guard_all_but_the_files(upstream: tuple[ScriptedUpstream, str], guardian: ScriptedGuardian) -> None:
    settings = GatewaySettings(upstream=upstream[1], port=0, keys=read_keys([f"me:{KEY}"]))
    page = Playground()
    app = create_app(settings, guardian=guardian, pages=page.pages)
    with serving(app, settings) as base, httpx2.Client(base_url=base, timeout=20.0, trust_env=False) as client:
        assert [client.get(path).status_code for path in FILES] == [200] * 3
        for path in ("/playground/live", "/playground/about", "/playground/none"):
            assert client.get(path).status_code == 401
        assert client.post("/playground/ask", json={"message": "hi"}).status_code == 401
        client.headers["authorization"] = f"Bearer {KEY}"
        assert of(ask(client, "hello"), "end")


def test_without_it_there_is_no_page(gateway: str) -> None:
    assert httpx2.get(f"{gateway}/playground", trust_env=False, timeout=20.0).status_code == 404


def test_a_list_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(ConfigError):
        Playground(keep=0)


def test_a_page_that_leaves_stops_the_model(guardian: ScriptedGuardian) -> None:
    scripted = ScriptedUpstream(Script(deltas=("The first sentence is harmless. ", "And"), hang_after=2))
    gone, hang = threading.Event(), scripted._hang

    async def noted() -> None:
        try:
            await hang()
        finally:
            gone.set()

    scripted._hang = noted  # type: ignore[method-assign]
    page = Playground()
    with serving(scripted.app) as behind:
        settings = GatewaySettings(upstream=f"{behind}/v1", port=0)
        with (
            serving(create_app(settings, guardian=guardian, pages=page.pages), settings) as base,
            httpx2.Client(base_url=base, trust_env=False, timeout=20.0) as client,
        ):
            with client.stream("POST", "/playground/ask", json={"message": "hi"}) as answer:
                told = (json.loads(line[6:]) for line in answer.iter_lines() if line)
                assert next(event for event in told if event["kind"] == "text")["text"].startswith("The first")
            assert gone.wait(20.0)
            assert scripted.left == 1
