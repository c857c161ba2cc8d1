"""Put an edited text where the user's text was in an input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.prompt_values import ChatPromptValue, PromptValue, StringPromptValue

from guardrail_plugin.core.errors import InputError
from guardrail_plugin.runnables.views import InputKey, latest_turn, text_key


def rewrite_input(value: Any, text: str, *, input_key: InputKey | None = None) -> Any:
    """Return the input with ``text`` in place of the latest user turn; all else as it was.

    Raises:
        InputError: it cannot be told where to write: ``input_key`` is a function, or the type is unknown.
    """
    if callable(input_key):
        raise InputError("an edited text cannot be written back through input_key=function; pass a key")
    if isinstance(value, Mapping) and not _is_message(value):
        key = input_key if input_key is not None else text_key(value)
        return {**value, key: rewrite_input(value[key], text)}
    if isinstance(value, str):
        return text
    if isinstance(value, BaseMessage):
        return value.model_copy(update={"content": text})
    if isinstance(value, Mapping):
        return {**value, "content": text}
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
    whole = rewrite_input(edited, text) if isinstance(edited, BaseMessage | Mapping) else HumanMessage(text)
    turn = [whole if i == last else messages[i] for i in range(start, stop) if i == last or i not in users]
    return [*messages[:start], *turn, *messages[stop:]]


def _is_message(value: Mapping[Any, Any]) -> bool:
    return "content" in value and ("role" in value or "type" in value)
