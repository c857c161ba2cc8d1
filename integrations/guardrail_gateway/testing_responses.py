"""What a scripted upstream says over the Responses API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guardrail_gateway.testing import Script


def whole_response(script: Script) -> dict[str, Any]:
    """Return the whole answer: its text as one message, each mapping in ``deltas`` as an item before or after it."""
    text = "".join(piece for piece in script.deltas if isinstance(piece, str))
    first = next((i for i, piece in enumerate(script.deltas) if isinstance(piece, str)), 0)
    output = [dict(piece) for piece in script.deltas[:first] if isinstance(piece, Mapping)]
    output += [_message(text)] if text else []
    output += [dict(piece) for piece in script.deltas[first:] if isinstance(piece, Mapping)]
    usage = {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 12,
    }
    return {**_shared(), "status": "completed", "output": output, "usage": usage, **script.extra}


def response_events(script: Script) -> list[dict[str, Any]]:
    """Return the answer as events, numbered."""
    return [{**event, "sequence_number": number} for number, event in enumerate(_events(script))]


def _events(script: Script) -> Iterator[dict[str, Any]]:
    opening = {**_shared(), "status": "in_progress", "output": []}
    yield {"type": "response.created", "response": opening}
    yield {"type": "response.in_progress", "response": opening}
    whole = whole_response(script)
    for index, item in enumerate(whole["output"]):
        if item["type"] != "message":
            yield {"type": "response.output_item.added", "output_index": index, "item": {**item, "arguments": ""}}
            yield {"type": "response.output_item.done", "output_index": index, "item": item}
            continue
        at = {"item_id": item["id"], "output_index": index, "content_index": 0}
        part = item["content"][0]
        yield {"type": "response.output_item.added", "output_index": index, "item": {**item, "content": []}}
        yield {"type": "response.content_part.added", **at, "part": {**part, "text": ""}}
        for piece in script.deltas:
            if isinstance(piece, str):
                yield {"type": "response.output_text.delta", **at, "delta": piece, "logprobs": []}
        yield {"type": "response.output_text.done", **at, "text": part["text"], "logprobs": []}
        yield {"type": "response.content_part.done", **at, "part": part}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield from map(dict, script.events)
    yield {"type": "response.completed", "response": whole}


def _shared() -> dict[str, Any]:
    return {
        "id": "resp_scripted",
        "object": "response",
        "created_at": 1,
        "model": "scripted",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "temperature": 1.0,
        "top_p": 1.0,
    }


def _message(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"id": "msg_scripted", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
