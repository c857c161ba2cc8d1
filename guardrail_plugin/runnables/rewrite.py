"""Put an edited text where the user's text was in an input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, convert_to_messages
from langchain_core.prompt_values import ChatPromptValue, PromptValue, StringPromptValue

from guardrail_plugin.core.errors import InputError
from guardrail_plugin.runnables.input_keys import Declared, InputKey, is_message, locate
from guardrail_plugin.runnables.metadata import name_in
from guardrail_plugin.runnables.views import latest_turn


def rewrite_input(value: Any, text: str, *, input_key: InputKey | None = None, declared: Declared | None = None) -> Any:
    """Return the input with ``text`` in place of what was judged, the latest user turn; all else as it was.

    Args:
        declared: as it was read with.

    Raises:
        InputError: it cannot be told where to write: ``input_key`` is a function, or the type is unknown.
    """
    if callable(input_key):
        raise InputError("an edited text cannot be written back through input_key=function; pass a key")
    place = locate(value, input_key=input_key, declared=declared)
    edited = _anew(place.part, text) if place.raw else _rewritten(place.part, text)
    return edited if place.key is None else {**value, place.key: edited}


def unshared(value: Any, depth: int = 3) -> Any:
    """Return a copy of an input's dicts and lists, for a chain may edit its own in place."""
    if type(value) is dict and depth:
        return {key: unshared(item, depth - 1) for key, item in value.items()}
    return [unshared(item, depth - 1) for item in value] if type(value) is list and depth else value


def _anew(part: object, text: str) -> Any:
    """Write nothing but the text: all strings in the part were judged as one."""
    message = {"role": "user", "content": text}
    return message if isinstance(part, Mapping) else [message]


def _rewritten(value: Any, text: str) -> Any:
    if isinstance(value, str):
        return text
    if isinstance(value, BaseMessage):
        # A name that was judged as a part of the text goes with it.
        update: dict[str, Any] = {"content": text} | ({"name": None, "additional_kwargs": {}} if name_in(value) else {})
        return value.model_copy(update=update)
    if is_message(value):
        [message] = convert_to_messages([value])
        left_out = ("name", "additional_kwargs") if name_in(message) else ()
        return {key: item for key, item in value.items() if key not in left_out} | {"content": text}
    if isinstance(value, StringPromptValue):
        return StringPromptValue(text=text)
    if isinstance(value, PromptValue):
        return ChatPromptValue(messages=_messages(value.to_messages(), text))
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return _messages(value, text)
    raise InputError(f"an edited text cannot be written back into a {type(value).__name__}")


def _messages(messages: Sequence[Any], text: str) -> list[Any]:
    """Write the text into the turn's last user message and leave out its others: they were judged as one."""
    start, stop, users = latest_turn(messages)
    if not users:
        raise InputError("an edited text cannot be written back: the input has no user message")
    last = users[-1]
    edited = messages[last]
    whole = _rewritten(edited, text) if isinstance(edited, BaseMessage | Mapping) else HumanMessage(text)
    turn = [whole if i == last else messages[i] for i in range(start, stop) if i == last or i not in users]
    return [*messages[:start], *turn, *messages[stop:]]
