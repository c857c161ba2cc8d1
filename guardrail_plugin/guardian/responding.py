"""Safeguard responses: written by the guardian's own model, by a paired guardian, or beforehand by people."""

from __future__ import annotations

import zlib
from typing import Literal, TypeAlias, get_args

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import ConfigError, did_you_mean
from guardrail_plugin.core.refusal import is_refusal
from guardrail_plugin.core.verdict import Verdict
from guardrail_plugin.guardian.fallbacks import fallback, fallbacks
from guardrail_plugin.guardian.families.own import OwnFamily
from guardrail_plugin.guardian.format import SAFE, prompt, response_prompt
from guardrail_plugin.guardian.language import detect
from guardrail_plugin.guardian.protocol import CheckOutcome
from guardrail_plugin.guardian.themes import LEFT_TO_PEOPLE, themed_responses
from guardrail_plugin.pool.protocol import GenerateRequest

_MAX_RESPONSE_TOKENS = 80
_MIN_RESPONSE_WORDS = 4
_ENDS = (".", "!", "?", '"')  # another end means that the model ran out of tokens
_ENGLISH = "en"
_UNNAMED = "unnamed"  # no hazard's code: a general response, for harm that the guardian does not name

Responses: TypeAlias = Literal["model", "written"]
"""Where safeguard responses come from: the model's own where they pass the checks, or the written ones alone."""


def check_responses(responses: str, responder: object) -> None:
    """Refuse a word that is none of ``Responses``, and ``"written"`` beside a responder.

    Raises:
        ConfigError: names the word and the nearest known one.
    """
    known: tuple[str, ...] = get_args(Responses)
    if responses not in known:
        raise ConfigError(f"responses={responses!r} is none of {', '.join(known)}{did_you_mean(responses, known)}")
    if responses == "written" and responder is not None:
        raise ConfigError('responses="written" leaves a responder nothing to write; pass one of the two')


def asked(check: Check) -> str:
    """Return what a safeguard response answers: the query, also where its answer was blocked."""
    return check.query if check.rail == "output" and check.query else check.text


def written(check: Check, verdict: Verdict | None) -> str:
    """Return the written response in the query's language: of its theme where that is clear, else of its hazard."""
    query = asked(check)
    hazard = None if verdict is None else verdict.hazard or _UNNAMED
    language = detect(query)
    themed = themed_responses().nearest(query, hazard=hazard) if hazard and language == _ENGLISH else None
    return themed or fallback(hazard, language=language, seed=zlib.crc32(query.encode("utf-8", "surrogatepass")))


def is_written(text: str) -> bool:
    """Whether a response is one of those that were written beforehand."""
    return text in fallbacks() or text in themed_responses().texts


def response_request(
    family: OwnFamily, model_key: str, check: Check, verdict: Verdict | None
) -> GenerateRequest | None:
    """Return what to decode, or ``None`` where the written response is the answer."""
    if verdict is None or check.rail not in ("input", "output") or verdict.hazard in LEFT_TO_PEOPLE:
        return None
    if detect(asked(check)) != _ENGLISH:
        return None
    layout = family.layout
    label = verdict.hazard if verdict.hazard in layout.taxonomy else SAFE
    # Responses are learnt on queries: for a blocked answer the query is what is answered anew.
    query = Check(text=asked(check), rail="input", context=check.context)
    content = family.encode(query.text)[: layout.window_tokens]
    start = response_prompt(prompt(layout, family.tokenizer, query, content), layout, label or SAFE)
    return GenerateRequest(model_key, start, max_new_tokens=_MAX_RESPONSE_TOKENS, stop_ids=frozenset({layout.end_id}))


def response_check(check: Check, response: str) -> Check:
    """Return the check of a response that the model has written."""
    return Check(text=response or " ", rail="output", query=asked(check))


def usable(text: str, judged: CheckOutcome, *, check: Check, verdict: Verdict | None) -> bool:
    """Tell whether a response of the model's may be shown: safe, whole, a refusal, and about what was asked."""
    if not isinstance(judged, Verdict) or judged.harmful:
        return False
    if len(text.split()) < _MIN_RESPONSE_WORDS or not text.endswith(_ENDS):
        return False
    hazard = None if verdict is None else verdict.hazard
    return is_refusal(text) and (hazard is None or themed_responses().fits(text, hazard=hazard, query=asked(check)))
