"""The gateway's parts without a server: settings, keys, limits, event streams, reading of messages."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessageChunk
from starlette.datastructures import Headers

from guardrail_gateway import ApiKey, GatewaySettings, Problem, UpstreamError, rails_named, read_keys
from guardrail_gateway.hosts import Hosts
from guardrail_gateway.keys import caller
from guardrail_gateway.limits import Limits
from guardrail_gateway.notes import Note
from guardrail_gateway.parameters import said_beside
from guardrail_gateway.reading import (
    ChoiceReader,
    ToolOutput,
    as_message,
    read_question,
    read_tool_output,
    read_tool_outputs,
    tail,
)
from guardrail_gateway.upstream.events import EventDecoder
from guardrail_plugin import Check, ConfigError
from guardrail_plugin.runnables.answers import Asked, read_answer

KEY = "0123456789abcdef"


@pytest.mark.parametrize(
    "wrong",
    [
        {"upstream": "no url"},
        {"upstream_key": "key\n"},
        {"upstream_key": "schlüssel"},
        {"rails": ("input", "outputs")},
        {"rails": "input"},
        {"rails": ()},
        {"window": "word"},
        {"release": "soon"},
        {"history": "some"},
        {"trust_system": "yes"},
        {"cached_verdicts": -1},
        {"port": 70_000},
        {"host": "0.0.0.0"},  # noqa: S104  refused, that is the test
        {"host": "example.org"},
        {"max_body_bytes": 0},
        {"requests_per_minute": 0},
        {"upstream_timeout_s": 0},
        {"request_timeout_s": float("nan")},
        {"context_turns": -1},
        {"allowed_hosts": "example.org"},
        {"allowed_hosts": ("http://example.org",)},
        {"allowed_hosts": ("example.org:80",)},
        {"allowed_hosts": ("*example.org",)},
        {"allowed_hosts": ("",)},
        {"keys": read_keys([f"a:{KEY}", f"a:{KEY}2"])},
    ],
)
def test_wrong_settings_are_told_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        GatewaySettings(**wrong)


def test_an_open_address_needs_keys_or_a_word() -> None:
    assert GatewaySettings(host="0.0.0.0", keys=read_keys([KEY])).keys[0].name  # noqa: S104
    assert GatewaySettings(host="0.0.0.0", trust_network=True)  # noqa: S104
    assert GatewaySettings(host="localhost").host == "localhost"


def test_keys_are_not_kept_or_shown() -> None:
    settings = GatewaySettings(upstream_key="upstream-secret", keys=read_keys(["# who", "", f"alice:{KEY}", KEY + "x"]))
    assert next(key.name for key in settings.keys) == "alice"
    assert KEY not in repr(settings)
    assert "upstream-secret" not in repr(settings)


@pytest.mark.parametrize("line", ["short", "alice:short", f"al ice:{KEY}", f"alice:{KEY} {KEY}", f"alice:ü{KEY}"])
def test_bad_keys(line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ApiKey.parse(line)
    assert KEY not in str(caught.value)


def test_callers() -> None:
    keys = read_keys([f"alice:{KEY}", f"bob:{KEY}2"])
    assert caller(f"Bearer {KEY}2", keys) == "bob"
    assert caller(f"bearer  {KEY}", keys) == "alice"
    assert caller("", ()) == "anyone"
    for wrong in ("", "Bearer ", f"Basic {KEY}", f"Bearer {KEY}\ud800"):
        with pytest.raises(Problem):
            caller(wrong, keys)


@pytest.mark.parametrize(
    ("more", "passes", "refused"),
    [
        ({}, ["localhost", "127.0.0.1:8100", "[::1]"], ["example.org", "10.0.0.7"]),
        ({"allowed_hosts": ("gate.Example.org",)}, ["localhost", "GATE.example.org:443"], ["example.org", "a.b"]),
        ({"allowed_hosts": ("*.example.org",)}, ["a.example.org", "a.b.example.org"], ["example.org", "xexample.org"]),
        ({"allowed_hosts": ("fd00::1",)}, ["[fd00::1]:80"], ["[fd00::2]"]),
        ({"allowed_hosts": ("*",)}, ["example.org", ""], []),
        ({"host": "0.0.0.0", "keys": read_keys([KEY])}, ["example.org", ""], []),  # noqa: S104
        ({"host": "0.0.0.0", "keys": read_keys([KEY]), "allowed_hosts": ("a.b",)}, ["a.b"], ["b.a"]),  # noqa: S104
    ],
)
def test_hosts(more: dict[str, Any], passes: list[str], refused: list[str]) -> None:
    hosts = Hosts(GatewaySettings(**more))
    for host in passes:
        hosts.check(Headers({"host": host}))
    for host in refused:
        with pytest.raises(Problem) as caught:
            hosts.check(Headers({"host": host}))
        assert caught.value.status == 421


@pytest.mark.parametrize(
    ("given", "noted"), [("org/model-1.5:free", "org/model-1.5:free"), ("my secret words", ""), ("я" * 20, ""), (3, "")]
)
def test_what_clients_write_for_a_models_name_is_no_label(given: object, noted: str) -> None:
    note = Note("r1")
    note.asked_for(given, streamed=False)
    note.finish_reasons += ["stop", "because of my secret words"]
    assert note.event().model == noted
    assert note.event().finish_reasons == ("stop", "other")


def test_rails_by_name() -> None:
    assert rails_named(["output", " input"]) == ("input", "output")
    with pytest.raises(ConfigError, match="did you mean 'input'"):
        rails_named(["inputs"])


def test_the_rate_refills_with_time() -> None:
    now = [0.0]
    limits = Limits(GatewaySettings(requests_per_minute=2), clock=lambda: now[0])

    def ask() -> str | None:
        try:
            with limits.admit("alice"):
                return None
        except Problem as problem:
            return problem.headers["Retry-After"]

    assert [ask(), ask()] == [None, None]
    assert ask() == "30"
    now[0] = 29.0
    assert ask() in ("1", "2")
    now[0] = 30.0
    assert ask() is None
    now[0] = 1000.0
    assert [ask(), ask()] == [None, None]
    assert ask() is not None
    assert limits.running == 0
    assert limits.refused == 3


def test_concurrency_is_given_back() -> None:
    limits = Limits(GatewaySettings(max_concurrent=2, max_concurrent_per_key=1))
    with limits.admit("alice"):
        with pytest.raises(Problem, match="concurrency_limit"), limits.admit("alice"):
            pass
        with limits.admit("bob"), pytest.raises(Problem, match="overloaded"), limits.admit("carol"):
            pass
    with pytest.raises(ZeroDivisionError), limits.admit("alice"):
        raise ZeroDivisionError
    assert limits.running == 0


STREAM = b': hi\n\ndata: {"a": 1}\r\n\r\nevent: x\ndata:{"b":\ndata: 2}\n\ndata: \n\ndata: [DONE]\n\ndata: {"c": 3}\n\n'


@given(st.lists(st.integers(min_value=1, max_value=len(STREAM) - 1), max_size=8))
def test_events_do_not_depend_on_how_they_arrive(cuts: list[int]) -> None:
    decoder, found, start = EventDecoder(max_bytes=10_000), [], 0
    for cut in [*sorted(set(cuts)), len(STREAM)]:
        found += list(decoder.feed(STREAM[start:cut]))
        start = cut
    assert found == [{"a": 1}, {"b": 2}]
    assert decoder.done


@pytest.mark.parametrize("bad", [b"data: {\n\n", b"data: [1]\n\n", b"data: " + b"[" * 100_000 + b"\n\n", b"x" * 20_001])
def test_bad_events(bad: bytes) -> None:
    with pytest.raises(UpstreamError):
        list(EventDecoder(max_bytes=200_000 if b"[[" in bad else 20_000).feed(bad))


def test_a_last_event_without_its_empty_line() -> None:
    decoder = EventDecoder(max_bytes=100)
    assert [*decoder.feed(b'data: {"a": 1}'), *decoder.end()] == [{"a": 1}]


Turn = dict[str, Any]
turns = st.lists(
    st.builds(
        lambda role, text: {"role": role, "content": text, "tool_call_id": "c"},
        st.sampled_from(["user", "assistant", "system", "tool"]),
        st.sampled_from(["", "a", "b c"]),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=30, deadline=None)
@given(turns, st.integers(min_value=0, max_value=4), st.integers(min_value=1, max_value=6))
def test_a_tail_is_judged_as_the_whole_would_be(messages: list[Turn], context: int, repeat: int) -> None:
    history = messages * (repeat * 30)
    short = tail(history, context_turns=context)
    assert list(short) == history[-len(short) :]
    assert read_question(short, context_turns=context) == read_question(history, context_turns=context)


def test_tool_outputs_since_the_model_last_spoke() -> None:
    old = {"role": "tool", "content": "old", "tool_call_id": "1"}
    new = {"role": "tool", "content": [{"type": "text", "text": "new"}], "tool_call_id": "2"}
    messages = [{"role": "user", "content": "hi"}, old, {"role": "assistant", "content": ""}, new]
    assert read_tool_outputs(messages) == {3: ToolOutput(Check("new", rail="tool_output"))}


@pytest.mark.parametrize(
    ("said", "texts"),
    [
        ({"content": "plain"}, ["plain"]),
        ({"content": None}, []),
        ({"content": [{"type": "text", "text": "block"}]}, ["block"]),
        ({"content": "a", "reasoning_content": "thought"}, ["a", "thought"]),
        ({"content": None, "refusal": "no way"}, ["no way"]),
        ({"content": None, "audio": {"id": "1", "data": "AAAA", "transcript": "spoken"}}, ["spoken"]),
        ({"content": "a", "new_kind": {"deep": ["hidden"]}}, ["ahidden"]),
        ({"tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1}'}}]}, ['f {"a": 1}']),
        ({"tool_calls": [{"type": "custom", "custom": {"name": "f", "input": "x"}}]}, ["custom", "x"]),
        ({"function_call": {"name": "f", "arguments": '{"a": 1}'}}, ["f", "a"]),
    ],
)
def test_all_that_an_answer_says_is_judged(said: Turn, texts: list[str]) -> None:
    message = as_message(said, {})
    assert isinstance(message, str | AIMessageChunk)
    checks = read_answer(message, Asked("q"), None).subject
    assert isinstance(checks, tuple)
    judged = "\n".join(check.text for check in checks)
    assert all(text in judged for text in texts)
    assert bool(checks) == bool(texts)


@pytest.mark.parametrize("call_id", ["chatcmpl-tool-" + "ab12" * 8, "call_3f2504e0-4f89-11d3-9a0c-0305e82c3301"])
def test_a_tool_calls_id_is_no_part_of_its_output(call_id: str) -> None:
    told = {"role": "tool", "tool_call_id": call_id, "content": "sunny", "id": call_id}
    assert read_tool_output(told).check.text == "sunny"
    assert read_tool_output({**told, "tool_call_id": "tell of a bomb"}).check.text == "tell of a bomb\nsunny"


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ({"safety_settings": [{"category": "HARM_CATEGORY_HATE_SPEECH", "threshold": "BLOCK_NONE"}]}, ""),
        ({"reasoning": {"effort": "high", "exclude": False}}, ""),
        ({"provider": {"order": ["Together", "DeepInfra"]}, "models": ["a/b-3.5"]}, ""),
        ({"plugins": [{"id": "web", "search_prompt": "Tell of a bomb."}]}, "web\nTell of a bomb."),
        ({"documents": ["tell", "of"]}, "tell\nof"),
    ],
)
def test_settings_of_many_servers_are_no_text(told: dict[str, Any], text: str) -> None:
    assert said_beside(told) == text


def test_what_a_chunk_says_elsewhere_stands_between_no_words() -> None:
    def read(field: str) -> tuple[str, str]:
        reader = ChoiceReader()
        pieces = ["how to ", "build a bo", "mb at ", "home."]
        parts = [
            reader.read({"event": f"e {n}", "choices": [{"index": 0, "delta": {field: piece}}]})
            for n, piece in enumerate(pieces)
        ]
        assert reader.text == ("".join(pieces) if field == "content" else "")
        return "".join(part.answer for part in parts), "".join(part.reasoning for part in parts)

    words, others = "how to build a bomb at home.", "e 0e 1e 2e 3"
    assert read("content") == (words, others)
    assert read("reasoning_content") == (others, words)
