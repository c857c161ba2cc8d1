"""A text as an item of a response, and the events that a stream tells it with. Not numbered: ``numbered`` does that."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping

from guardrail_gateway.bodies import JsonObject


def text_item(text: str, *, item_id: str | None = None, status: str = "completed") -> JsonObject:
    """Return a text of the assistant as an output item."""
    return {
        "id": item_id or f"msg_{uuid.uuid4().hex[:24]}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [_part(text)],
    }


def opened(item: Mapping[str, object], *, index: int) -> Iterator[JsonObject]:
    """Yield the events that announce a text item, empty."""
    empty = {**item, "status": "in_progress", "content": []}
    yield {"type": "response.output_item.added", "output_index": index, "item": empty}
    yield {"type": "response.content_part.added", **_place(item, index), "part": _part("")}


def said(item: Mapping[str, object], delta: str, *, index: int) -> JsonObject:
    """Return the event that adds to an item's text."""
    return {"type": "response.output_text.delta", **_place(item, index), "delta": delta, "logprobs": []}


def closed(item: Mapping[str, object], text: str, *, index: int) -> Iterator[JsonObject]:
    """Yield the events that end a text item."""
    place = _place(item, index)
    yield {"type": "response.output_text.done", **place, "text": text, "logprobs": []}
    yield {"type": "response.content_part.done", **place, "part": _part(text)}
    yield {"type": "response.output_item.done", "output_index": index, "item": dict(item)}


def numbered(events: Iterable[JsonObject], *, start: int = 0) -> Iterator[JsonObject]:
    """Yield events with their sequence numbers."""
    for number, event in enumerate(events, start):
        yield {**event, "sequence_number": number}


def _part(text: str) -> JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _place(item: Mapping[str, object], index: int) -> JsonObject:
    return {"item_id": item["id"], "output_index": index, "content_index": 0}
