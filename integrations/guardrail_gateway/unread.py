"""Images and files in the JSON of what a model says: no rail can read them; ``on_uncheckable`` decides about them."""

from __future__ import annotations

from collections.abc import Mapping

from guardrail_gateway.bodies import as_object
from guardrail_plugin.runnables.block_kinds import MEDIA_KINDS
from guardrail_plugin.runnables.content import read_content
from guardrail_plugin.runnables.encoded import is_payload

_CALLS = frozenset({"tool_calls", "function_call"})
_SEALED_THOUGHT = "other"
"""What encrypted reasoning is told as: only its provider reads it."""

_PICTURE_CALL = "image_generation_call"


def kinds_in(said: Mapping[str, object]) -> tuple[str, ...]:
    """Return the kinds of images and files in a message of a model, in its content or beside it.

    Raises:
        InputError: it is nested without end.
    """
    found: dict[str, None] = {}
    for key, value in said.items():
        if value and key not in _CALLS and not isinstance(value, str):
            block = {"type": key, **value} if key in MEDIA_KINDS and isinstance(value, dict) else value
            found.update(dict.fromkeys(read_content(block).sealed))
    found.pop(_SEALED_THOUGHT, None)
    return tuple(found)


def without_picture(item: object) -> object:
    """Return an item of a response without the image that it made, which is no text, though it is written as one."""
    told = as_object(item)
    made = told.get("result")
    if told.get("type") != _PICTURE_CALL or not isinstance(made, str) or not is_payload(made):
        return item
    return {key: value for key, value in told.items() if key != "result"}


def kinds_in_items(items: object) -> tuple[str, ...]:
    """Return the kinds of images and files in the items of a response."""
    found: list[str] = []
    for item in items if isinstance(items, list) else ():
        found += ["image"] if without_picture(item) is not item and as_object(item).get("result") else []
        found += kinds_in({"item": item})
    return tuple(dict.fromkeys(found))
