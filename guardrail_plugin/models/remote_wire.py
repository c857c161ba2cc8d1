"""What the kinds of OpenAI-compatible servers are asked for beyond the standard, and where they put the answer."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from guardrail_plugin.core.errors import InferenceError
from guardrail_plugin.models.remote_calls import Garbled
from guardrail_plugin.pool.protocol import GenerateRequest, ScoreRequest, ScoreResult

if TYPE_CHECKING:
    from openai.types import CompletionChoice

Dialect: TypeAlias = Literal["vllm", "sglang", "llama.cpp", "plain"]
"""Servers differ in whether they tell token ids and take other fields than the standard's."""

ALTERNATIVES = 20
"""The most that vLLM returns unless told otherwise."""

_OWNERS: Mapping[str, Dialect] = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama.cpp"}
_ID = "token_id:"
_LEAST_MASS = 0.01
_LEAST_LOGPROB = -9999.0  # what vLLM writes for minus infinity
_ROUNDING = 1e-3


class Codec(Protocol):
    """What a server is sent and what it sends back, in its own terms."""

    def prompt(self, token_ids: Sequence[int]) -> str | list[int]:
        """Return a prompt: the ids, or their text for a server that tokenises itself."""

    def piece(self, token_id: int) -> str:
        """Return the text of a token."""

    def template(self, text: str, *, first: bool = False) -> list[int]:
        """Return the ids of text that a server has written."""


def dialect_of(owners: Collection[str]) -> Dialect:
    """Tell the kind of server from who it says owns its models."""
    known = {_OWNERS[owner] for owner in owners if owner in _OWNERS}
    return known.pop() if len(known) == 1 else "plain"


def score_fields(dialect: Dialect, label_ids: Sequence[int], *, codec: Codec, constrain: bool) -> dict[str, object]:
    """Return the fields by which a server is asked for exactly these labels, where it can be."""
    fields: dict[str, object] = {}
    if dialect == "vllm" and not isinstance(codec.prompt(label_ids), str):  # a codec of text knows no ids
        fields["return_tokens_as_token_ids"] = True
        fields["logprob_token_ids"] = list(label_ids)
    if constrain:
        fields["structured_outputs"] = {"choice": [codec.piece(label) for label in label_ids]}
    return fields


def decode_fields(dialect: Dialect, request: GenerateRequest) -> dict[str, object]:
    """Return the fields of a decode that the standard does not know."""
    if dialect == "plain":
        return {}
    fields: dict[str, object] = {}
    if request.top_k > 0:
        fields["top_k"] = request.top_k
    if dialect in ("vllm", "sglang") and request.stop_ids:
        fields["stop_token_ids"] = sorted(request.stop_ids)
    if dialect == "vllm":
        # The request says where to stop. Others with this field leave out stop tokens (SGLang) or never make them.
        fields["ignore_eos"] = True
        fields["return_tokens_as_token_ids"] = True
    return fields


def score_of(choice: CompletionChoice, request: ScoreRequest, codec: Codec, *, constrain: bool) -> ScoreResult:
    """Read the labels' log-probabilities, normalised over the labels, from the alternatives for the first token.

    Each token counts for one label. A label that is not among them gets the most that it can have: what the reported
    ones leave over, and no more than the least of them; of spellings that differ in blanks alone, the first gets it. If
    the labels together have less than 1 %, the server is answering something else, unless it was asked for exactly
    these ids and told them all. With ``constrain`` the label that it chose counts then.

    Raises:
        InferenceError: there are no alternatives, or the labels are not among them.
        Garbled: they are no probabilities.
    """
    by_text = isinstance(codec.prompt(request.label_ids), str)
    reported = _alternatives(choice, by_text=by_text)
    if not reported and not constrain:
        raise InferenceError("the server reports no alternatives for a token: it must support logprobs")
    p = {token: math.exp(logprob) for token, logprob in reported.items()}
    rest = min(max(0.0, 1.0 - math.fsum(p.values())), min(p.values(), default=0.0))
    found = _found(p, request.label_ids, codec, by_text=by_text)
    asked_for = all(one is not None for one in found) and all(isinstance(token, int) for token in p)
    if math.fsum(one for one in found if one is not None) < _LEAST_MASS and not asked_for:
        pieces = [codec.piece(label).strip() for label in request.label_ids]
        if not constrain or choice.text.strip() not in pieces:
            raise InferenceError("none of the labels is among the server's alternatives for the verdict")
        found = [1.0 if piece == choice.text.strip() else None for piece in pieces]
        rest = 0.0
    mass = [math.log(max(rest if one is None else one, 1e-300)) for one in found]
    total = _log_sum(mass)
    return ScoreResult(tuple(one - total for one in mass))


def tokens_of(choice: CompletionChoice, codec: Codec) -> list[int]:
    """Return the ids that a piece of a stream brings: as told, else of its text."""
    told = choice.logprobs
    tokens = told.tokens if told is not None and told.tokens else []
    if tokens and all(token.startswith(_ID) for token in tokens):
        return [int(token.removeprefix(_ID)) for token in tokens]
    content = _content(choice)
    if content and all(isinstance(entry.get("id"), int) for entry in content):
        return [int(str(entry["id"])) for entry in content]
    return list(codec.template(choice.text)) if choice.text else []


def _alternatives(choice: CompletionChoice, *, by_text: bool) -> dict[int | str, float]:
    """Return what is reported for the first token: by id where the server tells ids and the codec knows them."""
    told = choice.logprobs
    found: dict[int | str, float] = {}
    if told is not None and told.top_logprobs:
        for text, logprob in told.top_logprobs[0].items():
            found[int(text.removeprefix(_ID)) if text.startswith(_ID) else text] = _checked(logprob)
    elif content := _content(choice):
        top = content[0].get("top_logprobs")
        for entry in top if isinstance(top, list) else ():
            token = entry.get("token") if by_text else entry.get("id", entry.get("token"))
            found.setdefault(token, _checked(entry.get("logprob")))  # likeliest first: two ids may read the same
    return found


def _checked(logprob: object) -> float:
    if not isinstance(logprob, int | float) or math.isnan(logprob) or logprob > _ROUNDING:
        raise Garbled("a log-probability that is none")
    return max(float(logprob), _LEAST_LOGPROB)


def _content(choice: CompletionChoice) -> list[dict[str, object]]:
    """Return llama.cpp's form of log-probabilities, which is that of chat completions."""
    extra = choice.logprobs.model_extra if choice.logprobs is not None else None
    content = (extra or {}).get("content")
    return content if isinstance(content, list) else []


def _found(p: Mapping[int | str, float], labels: Sequence[int], codec: Codec, *, by_text: bool) -> list[float | None]:
    """Return each label's probability; ``None``: it is not among what is reported."""
    if not by_text and any(isinstance(token, int) for token in p):
        return [p.get(label) for label in labels]
    pieces = [codec.piece(label) for label in labels]
    words = [piece.strip() for piece in pieces]
    others = {token: one for token, one in p.items() if isinstance(token, str) and token not in pieces}
    # A codec of text knows no tokens: a label may be several of the server's, of which the first is reported.
    begun = words if by_text else ()
    return [
        p[piece] if piece in p else 0.0 if word in words[:at] else _mass(others, word, begun)
        for at, (piece, word) in enumerate(zip(pieces, words, strict=True))
    ]


def _mass(others: Mapping[str, float], word: str, begun: Collection[str]) -> float | None:
    """Return what the tokens that are no label themselves give to the first that reads as ``word``: those that differ
    from it in blanks alone, else those with which it begins and no other word of ``begun``.
    """
    read = {token: token.strip() for token in others}
    same = [token for token, text in read.items() if text == word]
    starts = [
        token for token, text in read.items() if text and {one for one in begun if one.startswith(text)} == {word}
    ]
    return math.fsum(others[token] for token in same or starts) if same or starts else None


def _log_sum(logs: Sequence[float]) -> float:
    most = max(logs)
    return most + math.log(math.fsum(math.exp(one - most) for one in logs))
