"""Responses that the gateway writes itself: safeguard responses, whole and as events."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping

from guardrail_gateway.bodies import JsonObject, as_object
from guardrail_gateway.completions import FILTERED


def blocked_output(text: str) -> JsonObject:
    """Return the output item that holds a safeguard response."""
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {
        "id": f"msg_{uuid.uuid4().hex[:24]}",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }


def blocked_response(text: str, *, shared: Mapping[str, object], extension: Mapping[str, object]) -> JsonObject:
    """Return a response that holds a safeguard response: incomplete, because of a content filter."""
    return {
        "id": f"resp_{uuid.uuid4().hex[:24]}",
        "created_at": int(time.time()),
        "error": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        **shared,
        "object": "response",
        "status": "incomplete",
        "incomplete_details": {"reason": FILTERED},
        "output": [blocked_output(text)],
        "guardrail": dict(extension),
    }


def blocked_events(
    whole: JsonObject, *, begun: bool = False, index: int = 0, sequence: int = -1
) -> Iterator[JsonObject]:
    """Yield the events that end a stream with a safeguard response, numbered.

    Args:
        whole: what ``blocked_response`` made.
        begun: the response's own opening has left before.
        index: the place of the safeguard response among the output items that have left.
        sequence: the number of the last event that left.
    """
    output = whole["output"]
    item = as_object(output[0] if isinstance(output, list) else None)
    content = item["content"]
    part = as_object(content[0] if isinstance(content, list) else None)
    empty = {**part, "text": ""}
    at = {"item_id": item["id"], "output_index": index, "content_index": 0}
    opening = {**whole, "status": "in_progress", "incomplete_details": None, "output": []}
    events: list[JsonObject] = [] if begun else [{"type": "response.created", "response": opening}]
    events += [
        {
            "type": "response.output_item.added",
            "output_index": index,
            "item": {**item, "status": "in_progress", "content": []},
        },
        {"type": "response.content_part.added", **at, "part": empty},
        {"type": "response.output_text.delta", **at, "delta": part["text"], "logprobs": []},
        {"type": "response.output_text.done", **at, "text": part["text"], "logprobs": []},
        {"type": "response.content_part.done", **at, "part": part},
        {"type": "response.output_item.done", "output_index": index, "item": item},
        {"type": "response.incomplete", "response": whole},
    ]
    for number, event in enumerate(events, sequence + 1):
        yield {**event, "sequence_number": number}
