"""Responses that the gateway writes itself: safeguard responses, whole and as events."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from guardrail_gateway.bodies import JsonObject
from guardrail_gateway.completions import FILTERED
from guardrail_gateway.responses_ids import item_id, response_id
from guardrail_gateway.responses_messages import closed, numbered, opened, said, text_item

_NOTHING_USED: Mapping[str, object] = {
    "input_tokens": 0,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 0,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 0,
}


def blocked_response(text: str, *, shared: Mapping[str, object], extension: Mapping[str, object]) -> JsonObject:
    """Return a response that holds a safeguard response: incomplete, because of a content filter."""
    return {
        "id": response_id(shared.get("previous_response_id")),
        "created_at": int(time.time()),
        "error": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        **shared,
        "usage": shared.get("usage") or dict(_NOTHING_USED),
        "object": "response",
        "status": "incomplete",
        "incomplete_details": {"reason": FILTERED},
        "output": [text_item(text, item_id=item_id())],
        "guardrail": dict(extension),
    }


def blocked_events(
    text: str, whole: JsonObject, *, begun: bool = False, index: int = 0, sequence: int = -1
) -> Iterator[JsonObject]:
    """Yield the events that end a stream with a safeguard response, numbered.

    Args:
        text: the safeguard response; ``whole``: what ``blocked_response`` made of it.
        begun: the response's own opening has left before.
        index: the place of the safeguard response among the output items that have left.
        sequence: the number of the last event that left.
    """
    item = text_item(text, item_id=item_id())
    whole = {**whole, "output": [item]}
    opening = {**whole, "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
    events: list[JsonObject] = [] if begun else [{"type": "response.created", "response": opening}]
    events += [*opened(item, index=index), said(item, text, index=index), *closed(item, text, index=index)]
    events.append({"type": "response.incomplete", "response": whole})
    yield from numbered(events, start=sequence + 1)
