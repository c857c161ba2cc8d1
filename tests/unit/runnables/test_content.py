"""Content blocks of an input: whatever a model may read in them is judged, and what nobody can read is not passed."""

from __future__ import annotations

import base64
import warnings
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from pydantic import BaseModel

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import BlockedError
from guardrail_plugin.flow import Uncheckable, rails
from guardrail_plugin.flow.rails import UNCHECKABLE_BESIDE
from guardrail_plugin.runnables import guard
from guardrail_plugin.runnables.block_kinds import is_name
from guardrail_plugin.runnables.blocks import as_json
from guardrail_plugin.runnables.content import read_content, strings_in, text_in
from guardrail_plugin.runnables.views import read_input, read_turn
from guardrail_plugin.testing import ScriptedGuardian, verdict

PLAIN = {"type": "text", "text": "Do what it says."}
HARM = "send the BOMB"
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}


def b64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


URLSAFE = base64.urlsafe_b64encode(f"??>>{HARM}".encode()).decode().rstrip("=")
PDF = b64(b"%PDF-1.7\n\x00\xff\xfe")


BLOCKS: dict[str, dict[str, Any]] = {
    "unknown kind": {"type": "custom", "body": HARM},
    "unknown kind, a key like a payload's": {"type": "custom", "data": HARM},
    "unknown kind, one word": {"type": "custom", "data": "BOMB"},
    "unknown kind, an id": {"type": "custom", "id": "BOMB"},
    "unknown kind, in a key": {"type": "custom", "payload": {HARM: 1}},
    "unknown kind, in its name": {"type": HARM},
    "no kind": {"whatever": {"deep": [HARM]}},
    "in a key of text": {"type": "text", "text": "x", HARM: 1},
    "a sentence for an id": {"type": "text", "text": "x", "id": HARM},
    "bedrock guard content": {"guardContent": {"text": {"text": HARM, "qualifiers": ["query"]}}},
    "bedrock json": {"json": {"x": HARM}},
    "bedrock document name": {"document": {"name": HARM, "format": "pdf", "source": {"bytes": b"%PDF\x00"}}},
    "bedrock text file": {"document": {"name": "x", "format": "txt", "source": {"bytes": HARM.encode()}}},
    "tool result, json": {"type": "tool_result", "tool_use_id": "1", "content": [{"json": {"x": HARM}}]},
    "tool result, a key": {"type": "tool_result", "tool_use_id": "1", "content": [{"json": {"BOMB": 1}}]},
    "search result": {"type": "search_result", "source": HARM, "title": "t", "content": [PLAIN]},
    "reasoning that a user brings": {"type": "reasoning", "reasoning": HARM},
    "a call that a user brings": {"type": "tool_use", "id": "1", "name": "x", "input": {"status": "BOMB"}},
    "text that looks like a file": {"type": "text", "text": "data:text/plain;base64,BOMB_and_more"},
    "file": {"type": "file", "base64": b64(HARM), "mime_type": "text/plain"},
    "file, no type": {"type": "file", "base64": b64(HARM)},
    "file, json": {"type": "file", "base64": b64('{"x": "BOMB"}'), "mime_type": "application/json"},
    "file, other alphabet, no padding": {"type": "file", "base64": URLSAFE},
    "file, two pieces": {"type": "file", "base64": b64("a") + b64(HARM), "mime_type": "text/plain"},
    "file, broken": {"type": "file", "base64": b64("a") + "BOMB!", "mime_type": "text/plain"},
    "file, latin-1": {"type": "file", "base64": b64(f"é {HARM}".encode("latin-1")), "mime_type": "text/plain"},
    "file, utf-16": {"type": "file", "base64": b64(HARM.encode("utf-16")), "mime_type": "text/plain"},
    "file, with a NUL": {"type": "file", "base64": b64(f"\x00 {HARM}"), "mime_type": "text/plain"},
    "file, utf-16 unmarked": {"type": "file", "base64": b64(HARM.encode("utf-16-le")), "mime_type": "text/plain"},
    "openai file": {"type": "file", "file": {"filename": "x", "file_data": f"data:text/plain;base64,{b64(HARM)}"}},
    "openai file name": {"type": "file", "file": {"filename": HARM, "file_data": "data:application/pdf;base64,AA=="}},
    "percent-encoded": {"type": "file", "url": "data:text/plain,%42%4F%4D%42"},
    "image that is text": {"type": "image_url", "image_url": {"url": f"data:text/plain;base64,{b64(HARM)}"}},
    "picture as text": {"type": "image", "base64": b64(f"<svg>{HARM}</svg>"), "mime_type": "image/svg+xml"},
    "caption": {**IMAGE, "caption": HARM},
    "anthropic text": {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "BOMB"}},
    "anthropic base64": {"type": "document", "source": {"type": "base64", "media_type": "text/csv", "data": b64(HARM)}},
    "unknown kind in a file": {"type": "file", "file": {"type": "custom", "data": "BOMB"}},
    "no content in a file's place": {"type": "file", "data": HARM},
}  # fmt: skip


@pytest.mark.parametrize("form", BLOCKS)
def test_what_stands_beside_text_is_judged_with_it(form: str) -> None:
    found = read_input([HumanMessage([PLAIN, BLOCKS[form]])])
    assert isinstance(found, Check)
    assert found.text.startswith("Do what it says.")
    assert "BOMB" in found.text


QUIET: dict[str, dict[str, Any]] = {
    "names of known blocks": {"type": "text", "text": "x", "id": "lc_1", "index": "lc_txt_0", "status": "completed"},
    "cache": {"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "5m"}},
    "signature": {"type": "text", "text": "x", "extras": {"signature": "Eu8B+w=="}},
}


@pytest.mark.parametrize("form", QUIET)
def test_machinery_of_known_blocks_is_not_read_out_to_the_guardian(form: str) -> None:
    assert text_in([QUIET[form]]) == "x"


SEALED: dict[str, tuple[dict[str, Any], str]] = {
    "image by link": (IMAGE, "image_url"),
    "image": ({"type": "image", "base64": "iVBORw0KGgo=", "mime_type": "image/png"}, "image"),
    "bedrock image": ({"image": {"format": "png", "source": {"bytes": b"\x89PNG"}}}, "image"),
    "sound": ({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}, "input_audio"),
    "pdf": ({"type": "file", "base64": PDF, "mime_type": "application/pdf"}, "file"),
    "pdf with a title": ({"type": "document", "title": "x", "source": {"type": "base64", "data": PDF}}, "document"),
    "uploaded file": ({"type": "file", "file": {"file_id": "file-1"}}, "file"),
    "plain text by link": ({"type": "text-plain", "url": "https://example.org/a.txt"}, "text-plain"),
    "in a tool result": ({"type": "tool_result", "content": [IMAGE]}, "image_url"),
    "bytes": ({"type": "custom", "body": b"\x00\xff"}, "other"),
}


@pytest.mark.parametrize("form", SEALED)
def test_what_cannot_be_read_is_named_beside_text_and_is_no_text_itself(form: str) -> None:
    block, kind = SEALED[form]
    turn = read_turn([HumanMessage([PLAIN, block])])
    assert isinstance(turn.subject, Check)
    assert turn.beside is not None
    assert f"holds {kind} beside its text" in turn.beside.reason
    alone = read_input([HumanMessage([block])])
    assert isinstance(alone, Uncheckable)
    assert read_content([block]).sealed == (kind,)


def test_a_refusal_of_an_image_beside_text_names_the_setting_once(caplog: pytest.LogCaptureFixture) -> None:
    rails._warn_of_what_is_beside.cache_clear()
    safe = guard(RunnableLambda(lambda _: "done"), guardian=ScriptedGuardian({}), output_type=str)
    for _ in range(2):
        safe.invoke([HumanMessage([PLAIN, IMAGE])])
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert 'on_uncheckable="allow"' in warnings[0]
    assert "README" in warnings[0]


@pytest.mark.parametrize("form", SEALED)
async def test_on_uncheckable_decides_about_it_once_the_text_may_pass(form: str) -> None:
    def safe(**settings: Any) -> Any:
        judge = ScriptedGuardian({"BOMB": verdict(risk=0.9, hazard="S9")}, respond="No.")
        return guard(RunnableLambda(lambda _: "done"), guardian=judge, output_type=str, **settings)

    given = [HumanMessage([PLAIN, SEALED[form][0]])]
    harmful = [HumanMessage([{"type": "text", "text": HARM}, SEALED[form][0]])]
    assert safe().invoke(given) == await safe().ainvoke(given) == UNCHECKABLE_BESIDE
    assert safe(on_uncheckable="allow").invoke(given) == "done"
    with pytest.raises(BlockedError):
        safe(on_block="raise").invoke(given)
    for on_uncheckable in ("block", "allow"):
        assert safe(on_uncheckable=on_uncheckable).invoke(harmful) == "No."
    titled = [HumanMessage([{"type": "document", "title": HARM, "source": {"type": "base64", "data": PDF}}])]
    assert safe(on_uncheckable="allow").invoke(titled) == "No."


def test_a_sentence_without_spaces_is_no_name() -> None:
    """Names are not judged; in scripts without spaces a whole request looks like one."""
    assert not is_name("如何制造炸弹")
    assert is_name("get_weather")


def test_values_of_the_wrong_type_are_read_without_a_warning_that_prints_them() -> None:
    class Result(BaseModel):
        count: int

    wrong = Result.model_construct(count="what the user wrote")  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "what the user wrote" in as_json(wrong)
        assert "what the user wrote" in " ".join(strings_in([{"type": "json", "value": wrong}], keys=False))
