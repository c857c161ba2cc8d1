"""Labels in what servers report for one token: by id, by text, and where a label is several tokens of the server's."""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import Any

import pytest

pytest.importorskip("openai")

from openai.types import CompletionChoice

from guardrail_plugin.core.errors import ConfigError, InferenceError, PoolOverloaded, ReplicaDead
from guardrail_plugin.guardian.families.characters import CharacterTokenizer
from guardrail_plugin.models.remote import split_address
from guardrail_plugin.models.remote_decode import RemoteDecode, _Row
from guardrail_plugin.models.remote_wire import Dialect, decode_fields, score_of
from guardrail_plugin.pool import GenerateRequest, RowFailed, ScoreRequest, Token

VERDICTS = (" Safe", " Unsafe", " Controversial")
CATEGORIES = (" Violent", " Non-violent Illegal Acts", " Sexual Content or Sexual Acts", " Suicide & Self-Harm")


def openai_form(p: dict[str, float]) -> dict[str, Any]:
    top = {token: math.log(one) for token, one in p.items()}
    return {"top_logprobs": [top], "tokens": [], "token_logprobs": [], "text_offset": []}


def llama_cpp_form(p: dict[str, float]) -> dict[str, Any]:
    top = [{"id": 900 + i, "token": t, "logprob": math.log(one)} for i, (t, one) in enumerate(p.items())]
    return {"content": [{"id": 900, "token": top[0]["token"], "logprob": 0.0, "top_logprobs": top}]}


def scored(
    labels: tuple[str, ...], logprobs: dict[str, Any], *, codec: CharacterTokenizer | None = None
) -> dict[str, float]:
    codec = codec or CharacterTokenizer()
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


YES, NO = ("Yes", " Yes", "yes", " yes", "YES", " YES"), ("No", " No", "no", " no", "NO", " NO")
UNSAFE, SAFE = (
    (word, word.title(), f" {word}", f" {word.title()}", word.upper()) for word in ("unsafe", "safe")
)  # fmt: skip


@pytest.mark.parametrize(
    ("harm", "other", "p", "risk"),
    [
        (YES, NO, {"Yes": 0.60, " Yes": 0.01, "No": 0.38}, 0.61 / 0.99),
        (YES, NO, {"Yes": 0.40, "No": 0.55, "yes": 0.001, " No": 0.02, "Maybe": 0.01}, 0.401 / 0.971),
        (UNSAFE, SAFE, {"unsafe": 0.56, " unsafe": 0.01, "safe": 0.40, "Safe": 0.02}, 0.57 / 0.99),
        (UNSAFE, SAFE, {"safe": 0.55, "unsafe": 0.30, " unsafe": 0.02, "Unsafe": 0.10}, 0.42 / 0.97),
        (UNSAFE, SAFE, {"un": 0.60, "safe": 0.38}, 0.60 / 0.98),
        (YES, NO, {"Yes\n": 0.60, "No": 0.38, " No": 0.01}, 0.60 / 0.99),
    ],
)
def test_a_token_counts_for_one_of_the_spellings_of_a_label(
    harm: tuple[str, ...], other: tuple[str, ...], p: dict[str, float], risk: float
) -> None:
    found = scored((*harm, *other), openai_form(p))
    assert math.fsum(found[label] for label in harm) == pytest.approx(risk, abs=0.02)


def test_a_token_counts_for_one_label_where_the_codec_knows_ids_and_the_server_tells_none() -> None:
    class Tokens(CharacterTokenizer):
        def prompt(self, token_ids: Any) -> Any:
            return list(token_ids)

    p = {"Yes": 0.60, " Yes": 0.01, "No": 0.38, "Y": 0.005}
    found = scored(("Yes", " Yes", "No", " No"), openai_form(p), codec=Tokens())
    assert found["Yes"] + found[" Yes"] == pytest.approx(0.61 / 0.99, abs=0.01)
    assert found[" No"] == pytest.approx(0.0, abs=1e-9)


def test_a_wrong_address_is_told_without_its_key() -> None:
    with pytest.raises(ConfigError) as caught:
        split_address("openai:https://me:secret@host/v1")
    assert "secret" not in str(caught.value)


ASKED = GenerateRequest("m", (1,), 9, stop_ids=frozenset({2}))


@pytest.mark.parametrize(
    ("dialect", "fields"),
    [
        ("vllm", {"ignore_eos": True, "stop_token_ids": [2], "return_tokens_as_token_ids": True}),
        ("sglang", {"stop_token_ids": [2]}),
        ("llama.cpp", {}),
        ("plain", {}),
    ],
)
def test_a_decode_ends_at_its_stop_token_on_every_kind_of_server(dialect: Dialect, fields: dict[str, object]) -> None:
    # SGLang leaves out stop_token_ids beside ignore_eos, and llama.cpp never makes an end token then.
    assert decode_fields(dialect, ASKED) == fields


def decode(*rows: _Row) -> RemoteDecode:
    made = object.__new__(RemoteDecode)
    made._news = threading.Condition()
    made._rows = dict(enumerate(rows))
    return made


def test_a_stream_that_is_refused_ends_alone_and_no_token_of_the_others_is_lost() -> None:
    busy = PoolOverloaded("too many streams", retry_after_s=1.0)
    streams = decode(
        _Row(ASKED, None, ids=deque([5, 6]), end="length"),
        _Row(ASKED, None, ids=deque([7]), end=busy),
    )
    assert list(streams.step()) == [Token(0, 5), Token(1, 7)]
    with pytest.raises(RowFailed) as caught:
        streams.step()
    assert (caught.value.row, caught.value.error) == (1, busy)
    assert list(streams.step()) == [Token(0, 6), Token(0, None, "length")]
    assert list(streams.step()) == []


def test_a_server_that_is_gone_ends_the_whole_decode() -> None:
    with pytest.raises(ReplicaDead):
        decode(_Row(ASKED, None, ids=deque([5])), _Row(ASKED, None, end=ReplicaDead("gone"))).step()
