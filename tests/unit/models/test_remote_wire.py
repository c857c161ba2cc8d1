"""Labels in what servers report for one token: by id, by text, and where a label is several tokens of the server's."""

from __future__ import annotations

import math
from typing import Any

import pytest

pytest.importorskip("openai")

from openai.types import CompletionChoice

from guardrail_plugin.core.errors import ConfigError, InferenceError
from guardrail_plugin.guardian.families.characters import CharacterTokenizer
from guardrail_plugin.models.remote import split_address
from guardrail_plugin.models.remote_wire import score_of
from guardrail_plugin.pool import ScoreRequest

VERDICTS = (" Safe", " Unsafe", " Controversial")
CATEGORIES = (" Violent", " Non-violent Illegal Acts", " Sexual Content or Sexual Acts", " Suicide & Self-Harm")


def openai_form(p: dict[str, float]) -> dict[str, Any]:
    top = {token: math.log(one) for token, one in p.items()}
    return {"top_logprobs": [top], "tokens": [], "token_logprobs": [], "text_offset": []}


def llama_cpp_form(p: dict[str, float]) -> dict[str, Any]:
    top = [{"id": 900 + i, "token": t, "logprob": math.log(one)} for i, (t, one) in enumerate(p.items())]
    return {"content": [{"id": 900, "token": top[0]["token"], "logprob": 0.0, "top_logprobs": top}]}


def scored(labels: tuple[str, ...], logprobs: dict[str, Any]) -> dict[str, float]:
    codec = CharacterTokenizer()
    request = ScoreRequest("m", (65,), tuple(codec.label(label)[0] for label in labels))
    choice = CompletionChoice.model_validate({"index": 0, "text": "", "finish_reason": "length", "logprobs": logprobs})
    result = score_of(choice, request, codec, constrain=False)
    return dict(zip(labels, map(math.exp, result.logprobs), strict=True))


@pytest.mark.parametrize("form", [openai_form, llama_cpp_form])
def test_a_codec_of_text_finds_its_labels_also_where_the_server_tells_ids(form: Any) -> None:
    found = scored(("safe", "unsafe"), form({"unsafe": 0.9, "safe": 0.08, "\n": 0.01}))
    assert found["unsafe"] == pytest.approx(0.9 / 0.98)


def test_a_label_of_several_tokens_is_known_by_its_first() -> None:
    found = scored(VERDICTS, openai_form({" Contro": 0.95, " Safe": 0.04, " Unsafe": 0.01}))
    assert found[" Controversial"] == pytest.approx(0.95)
    named = scored(CATEGORIES, openai_form({" Sexual": 0.9, " Non": 0.05, " Violent": 0.02, " S": 0.01}))
    assert named[" Sexual Content or Sexual Acts"] == pytest.approx(0.9 / 0.98, abs=0.02)
    assert named[" Non-violent Illegal Acts"] == pytest.approx(0.05 / 0.98, abs=0.01)


def test_a_beginning_that_two_labels_share_is_neither() -> None:
    with pytest.raises(InferenceError, match="none of the labels"):
        scored(CATEGORIES, openai_form({" S": 0.9, " Cats": 0.09}))


def test_a_wrong_address_is_told_without_its_key() -> None:
    with pytest.raises(ConfigError) as caught:
        split_address("openai:https://me:secret@host/v1")
    assert "secret" not in str(caught.value)
