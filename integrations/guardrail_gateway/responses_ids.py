"""Ids of what the gateway itself says in the Responses API: no upstream that keeps conversations has heard of them."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping

from guardrail_gateway.bodies import JsonObject, as_object
from guardrail_gateway.reading import is_word

_ITEM = "msg_guardrail_"
_RESPONSE = re.compile(r"guardrail_[0-9a-f]{8}(?:_(.+))?")


def item_id() -> str:
    """Return a new id of a message that the gateway wrote."""
    return f"{_ITEM}{uuid.uuid4().hex[:16]}"


def response_id(after: object) -> str:
    """Return a new id of a response that the gateway wrote.

    It does not begin like an upstream's, so that clients which look for the latest of these look further back.

    Args:
        after: the id of the response before it, which it carries: the conversation goes on there.
    """
    made = f"guardrail_{uuid.uuid4().hex[:8]}"
    return f"{made}_{after}" if is_word(after) else made


def without_own_ids(body: JsonObject) -> None:
    """Take the gateway's own ids out of a request that goes to an upstream."""
    previous = body.get("previous_response_id")
    own = _RESPONSE.fullmatch(previous) if isinstance(previous, str) else None
    if own is not None:
        before = own.group(1)
        body["previous_response_id"] = before
        if before is None:
            del body["previous_response_id"]
    items = body.get("input")
    if isinstance(items, list):
        body["input"] = [_without_id(item) for item in items if not _refers_here(item)]


def _refers_here(item: object) -> bool:
    told = as_object(item)
    return told.get("type") == "item_reference" and _is_own(told)


def _without_id(item: object) -> object:
    told = as_object(item)
    return {key: value for key, value in told.items() if key != "id"} if _is_own(told) else item


def _is_own(item: Mapping[str, object]) -> bool:
    return str(item.get("id", "")).startswith(_ITEM)
