"""Chat completions that the gateway writes itself: safeguard responses, whole and as chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping

from guardrail_gateway.bodies import JsonObject
from guardrail_plugin.flow import Blocked, Edited

FILTERED = "content_filter"
"""OpenAI's finish reason for what a filter has stopped."""

_SHARED = ("id", "created", "model", "system_fingerprint", "service_tier", "usage")


def instead(outcome: Blocked | Edited) -> str:
    """Return the text that takes the place of what was blocked."""
    return outcome.response if isinstance(outcome, Blocked) else outcome.text


def head(*, model: object, kind: str) -> JsonObject:
    """Return the fields that every completion begins with."""
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex[:24]}",
        "object": kind,
        "created": int(time.time()),
        "model": model if isinstance(model, str) else "",
    }


def blocked_completion(text: str, *, model: object, choices: int, extension: Mapping[str, object]) -> JsonObject:
    """Return a whole completion that holds a safeguard response."""
    return {
        **head(model=model, kind="chat.completion"),
        "choices": [blocked_choice(index, text) for index in range(choices)],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        "guardrail": dict(extension),
    }


def blocked_choice(index: int, text: str) -> JsonObject:
    """Return a choice that holds a safeguard response."""
    message = {"role": "assistant", "content": text, "refusal": None}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": FILTERED}


def without_unknown(answer: Mapping[str, object]) -> JsonObject:
    """Return an answer's envelope: what is left of one whose text was blocked."""
    return {"object": "chat.completion", **{key: answer[key] for key in _SHARED if key in answer}}


def blocked_chunks(
    text: str, *, shared: Mapping[str, object], index: int, begun: bool, extension: Mapping[str, object]
) -> list[JsonObject]:
    """Return the chunks that end a stream with a safeguard response.

    Args:
        shared: id, model and the like of the chunks before.
        begun: chunks of this choice have left before: no role again.
    """
    envelope = {**shared, "object": "chat.completion.chunk"}
    delta = {"content": text} if begun else {"role": "assistant", "content": text}
    said = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
    end = {"index": index, "delta": {}, "logprobs": None, "finish_reason": FILTERED}
    return [{**envelope, "choices": [said]}, {**envelope, "choices": [end], "guardrail": dict(extension)}]
