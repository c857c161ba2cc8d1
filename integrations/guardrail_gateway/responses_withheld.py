"""Items of the Responses API without what they say."""

from __future__ import annotations

from collections.abc import Mapping

from guardrail_gateway.bodies import JsonObject, as_object
from guardrail_gateway.reading import is_word

_IDS = frozenset({"type", "id", "call_id", "status", "name", "server_label", "namespace", "approval_request_id"})
_MADE: Mapping[str, object] = {"arguments": "{}", "results": None, "outputs": None, "error": None, "tools": []}
"""What stands under these keys instead."""

_MESSAGE = frozenset({"id", "type", "role", "status", "phase", "name"})
_SILENT = frozenset({"item_reference", "mcp_approval_response"})


def without_text(item: object, *, instead: str) -> JsonObject:
    """Return an item with another text in place of its own. Calls stay, without their arguments."""
    told = as_object(item)
    kind = told.get("type", "message")
    if kind == "message":
        # All that it says beside its content was judged with it.
        return {**_named(told, _MESSAGE), "content": instead}
    if not isinstance(kind, str):
        return _said(instead)
    if kind.endswith("_call_output"):
        return {**_named(told, _IDS), "output": instead}
    if kind == "reasoning":
        kept = {key: told[key] for key in ("type", "id", "status") if key in told}
        return {**kept, "summary": []}
    if kind.endswith("_call") or kind in ("mcp_approval_request", "mcp_list_tools"):
        return {key: _emptied(key, value, instead) for key, value in told.items()}
    return dict(told) if kind in _SILENT else _said(instead)


def _said(text: str) -> JsonObject:
    return {"type": "message", "role": "user", "content": text}


def _named(told: Mapping[str, object], keys: frozenset[str]) -> JsonObject:
    return {key: value for key, value in told.items() if key in keys and is_word(value)}


def _emptied(key: str, value: object, instead: str) -> object:
    if key in _MADE:
        return _MADE[key]
    if key == "output":
        return instead
    if isinstance(value, dict):
        return {inner: _emptied(inner, told, instead) for inner, told in value.items() if is_word(inner)}
    if isinstance(value, list):
        return [_emptied("", told, instead) for told in value]
    word = key in _IDS and is_word(value)
    return value if word or not isinstance(value, str) else ""
