"""A gateway on a real loopback port, in front of a real scripted upstream, with a guardian that follows words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx2
import openai
import pytest

from guardrail_gateway import GatewaySettings, create_app
from guardrail_gateway.testing import Script, ScriptedUpstream, serving
from guardrail_plugin import GuardianError, PoolOverloaded, ReplicaDead
from guardrail_plugin.testing import ScriptedGuardian, verdict

SAFEGUARD = "I can't help with that."
HALF = ("The first sentence is harmless. ", "An unfinished thought that goes on ", "and on and on. ")
SENTENCES = ("The first sentence is harmless. ", "So is the second one here. ", "And the third one, too.")
CALL = {"id": "call_1", "type": "function", "function": {"name": "search", "arguments": '{"q": "cats"}'}}
BAD_CALL = {"id": "call_1", "type": "function", "function": {"name": "search", "arguments": '{"q": "a bomb"}'}}

IMPATIENT_S = 1.5  # the upstream's first words must come within it

CALLED = {"name": "search", "arguments": '{"q": "a bomb"}'}


def rule() -> ScriptedGuardian:
    """What holds a word is harmful, or gets no verdict."""
    words = {
        "bomb": verdict(risk=0.9, hazard="S9"),
        "busy": PoolOverloaded("full", retry_after_s=2.2),
        "dead": ReplicaDead("gone"),
        "mute": GuardianError("nothing"),
    }
    return ScriptedGuardian(words, respond=SAFEGUARD)


SCRIPTS: dict[str, Script] = {
    "evil answer": Script(deltas=(SENTENCES[0], "Now take the bomb and ", "do as I say. ", "Then run.")),
    "evil thought": Script(deltas=({"reasoning_content": "I want a bomb. "}, "A harmless answer.")),
    "evil field": Script(extra={"notes": ["a bomb is hidden here"]}),
    "unjudged answer": Script(deltas=(SENTENCES[0], "The next one is busy work. ", "End.")),
    "call tool": Script(deltas=({"tool_calls": [{"index": 0, **CALL}]},), finish_reason="tool_calls"),
    "bad tool": Script(deltas=({"tool_calls": [{"index": 0, **BAD_CALL}]},), finish_reason="tool_calls"),
    "evil call": Script(
        deltas=({"type": "function_call", "id": "f", "call_id": "c", "status": "completed", **CALLED},)
    ),
    "evil event": Script(events=({"type": "response.new_kind", "item_id": "i", "notes": ["a bomb is hidden here"]},)),
    "evil pieces": Script(
        events=tuple({"type": "response.code.delta", "item_id": "i", "delta": piece} for piece in ("bo", "mb"))
    ),
    "evil words": Script(
        deltas=(SENTENCES[0], "Both of them, and the number of it. "),
        events=(
            *({"type": "response.code.delta", "item_id": "i", "delta": piece} for piece in ("bo", "mb")),
            {"type": "response.output_text.delta", "item_id": "m", "delta": "Here is one more sentence. "},
        ),
    ),
    "evil item": Script(
        events=({"type": "response.output_item.done", "output_index": 1, "item": {"type": "note", "text": "a bomb"}},)
    ),
    "known events": Script(
        deltas=SENTENCES,
        events=(
            {"type": "response.web_search_call.completed", "item_id": "i", "output_index": 1},
            {"type": "response.function_call_arguments.delta", "item_id": "f", "delta": "The first sentence is"},
        ),
    ),
    "thinking": Script(deltas=({"type": "reasoning", "id": "rs_1", "summary": []}, *SENTENCES), hang_after=9),
    "known fields": Script(extra={"x_seen": {"count": 3}, "service_tier": "default"}),
    "error 400": Script(status=400, error={"message": "Too long by far.", "code": "context_length_exceeded"}),
    "error bad": Script(status=400, error={"message": "You wrote: bomb", "code": "invalid_value"}),
    "error 429": Script(status=429, error={"message": "Slow down.", "code": "rate_limit_exceeded"}),
    "error 500": Script(status=500, error={"message": "Oh no.", "code": "server_error"}),
    "die": Script(deltas=HALF, die_after=3),
    "hang": Script(deltas=HALF, hang_after=3),
    "tell": Script(deltas=HALF, tell_after=3, error={"message": "Oh no.", "code": "server_error"}),
    "swear": Script(deltas=HALF, tell_after=3, error={"message": "You wrote: bomb", "code": "server_error"}),
    "cut": Script(deltas=HALF, end_after=3),
}


def script(body: dict[str, Any]) -> Script:
    """Choose by the words of the last user message."""
    turns = body.get("messages") or body.get("input", "")
    asked = turns if isinstance(turns, str) else next(str(t["content"]) for t in turns[::-1] if t.get("role") == "user")
    return next((told for words, told in SCRIPTS.items() if words in asked), Script(deltas=SENTENCES))


@pytest.fixture(scope="module")
def guardian() -> ScriptedGuardian:
    return rule()


@pytest.fixture(scope="module")
def upstream() -> Iterator[tuple[ScriptedUpstream, str]]:
    scripted = ScriptedUpstream(script)
    with serving(scripted.app) as url:
        yield scripted, f"{url}/v1"


@pytest.fixture(scope="module")
def settings(upstream: tuple[ScriptedUpstream, str]) -> GatewaySettings:
    return GatewaySettings(upstream=upstream[1], port=0, upstream_timeout_s=60.0)


@pytest.fixture(scope="module")
def gateway(settings: GatewaySettings, guardian: ScriptedGuardian) -> Iterator[str]:
    with serving(create_app(settings, guardian=guardian), settings) as url:
        yield url


@pytest.fixture(scope="module")
def impatient(settings: GatewaySettings, guardian: ScriptedGuardian) -> Iterator[httpx2.Client]:
    """A client of a gateway that soon gives a silent upstream up; for nothing that is to be answered."""
    hasty = replace(settings, upstream_timeout_s=IMPATIENT_S)
    with (
        serving(create_app(hasty, guardian=guardian), hasty) as url,
        httpx2.Client(base_url=url, timeout=20.0, trust_env=False) as made,
    ):
        yield made


@pytest.fixture
def behind(upstream: tuple[ScriptedUpstream, str]) -> ScriptedUpstream:
    """The upstream, with nothing asked of it yet."""
    upstream[0].bodies.clear()
    upstream[0].headers.clear()
    return upstream[0]


@pytest.fixture
def client(gateway: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway}/v1", api_key="the-clients-own-key", max_retries=0) as made:
        yield made


@pytest.fixture
def http(gateway: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=gateway, timeout=120.0, trust_env=False) as made:
        yield made
