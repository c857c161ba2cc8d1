"""What a tool returned, as texts to judge, and the same with some of them replaced."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeGuard

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage, convert_to_messages
from langchain_core.messages.tool import ToolOutputMixin
from langchain_core.tools.base import TOOL_MESSAGE_BLOCK_TYPES

from guardrail_plugin.core.errors import InputError
from guardrail_plugin.runnables.block_kinds import CALL_KINDS, is_name
from guardrail_plugin.runnables.blocks import call_checks, kind_of, part_of
from guardrail_plugin.runnables.content import Content, read_content
from guardrail_plugin.runnables.metadata import metadata_in

_MESSAGES = "messages"
_WHOLE = "__root__"
"""LangGraph's name for an update that is one value."""


def holds_messages(output: object) -> bool:
    """Return whether it is, or holds, messages, rather than plain content for one."""
    return isinstance(output, ToolOutputMixin | BaseMessage) or _is_list_of_messages(output)


def texts_of(output: Any) -> list[str]:
    """Return what a model would read of it: one text for each message in it, or one for all.

    Raises:
        InputError: it holds messages in a form that cannot be read.
    """
    return [content.text for content in read_output(output)]


def read_output(output: Any) -> list[Content]:
    """Like ``texts_of``, for rails that decide about files too.

    Raises:
        InputError: it holds messages in a form that cannot be read.
    """
    return [_said(item) for item in _items(output)]


def messages_of(output: Any) -> list[object]:
    """Return the messages in it, one for each of ``texts_of``, as LangGraph would make them; other items as they are.

    Raises:
        InputError: it holds messages in a form that cannot be read.
    """
    return [item if isinstance(item, BaseMessage) else _as_message(item) for item in _items(output)]


def replaced(output: Any, texts: Sequence[str | None], *, error: bool) -> Any:
    """Return the output with each text that is not ``None`` in place of what was there.

    Messages keep their ids and their tool call's, so that they replace and answer what they should.

    Args:
        error: mark replaced tool messages as errors.
    """
    if isinstance(output, BaseMessage):
        return _instead(output, texts[0], error=error)
    if is_command(output):
        return _command(output, list(texts), error=error)
    if _is_list_of_messages(output):
        rebuilt = []
        left = list(texts)
        for item in output:
            count = len(texts_of(item))
            rebuilt.append(replaced(item, left[:count], error=error))
            left = left[count:]
        return rebuilt
    return output if texts[0] is None else texts[0]


def is_command(output: object) -> bool:
    """Tell LangGraph's ``Command`` without importing LangGraph."""
    return isinstance(output, ToolOutputMixin) and hasattr(output, "update")


def _is_list_of_messages(output: object) -> bool:
    # As LangChain tells it: any other list goes to the model as text, whatever is in it.
    return isinstance(output, list) and bool(output) and all(isinstance(item, ToolOutputMixin) for item in output)


def plain_text(output: object) -> str:
    """Return a tool's plain output as LangChain writes it into a ``ToolMessage``; content blocks as their strings."""
    if isinstance(output, str):
        return output
    if _is_blocks(output):
        return _said(output).text
    try:
        return json.dumps(output, ensure_ascii=False)
    except Exception:
        return str(output)


def as_content(output: object) -> str | list[str | dict[Any, Any]]:
    """Return a tool's plain output as LangChain writes it into a ``ToolMessage``."""
    return list(output) if _is_blocks(output) else plain_text(output)


def _is_blocks(output: object) -> TypeGuard[Sequence[str | dict[Any, Any]]]:
    return isinstance(output, Sequence) and not isinstance(output, str) and all(_is_block(item) for item in output)


def _is_block(item: object) -> bool:
    return isinstance(item, str) or (isinstance(item, dict) and item.get("type") in TOOL_MESSAGE_BLOCK_TYPES)


def _items(output: Any) -> list[object]:
    """Return what is judged on its own: each message, or the output."""
    if is_command(output):
        return _update_messages(output)
    if _is_list_of_messages(output):
        return [part for item in output for part in _items(item)]
    return [output]


def _said(item: object) -> Content:
    if not isinstance(item, BaseMessage):
        if not _is_blocks(item):
            return Content(plain_text(item))
        item = AIMessage(content=list(item))
    given = item.content
    # Its calls are read as calls; the rest not as a streamed answer: strings of data stand on lines of their own.
    content = read_content(given if isinstance(given, str) else [block for block in given if not _is_call(block)])
    beside = part_of(item.model_copy(update={"content": ""}))
    orders = [check.text for check in call_checks(item)]
    texts = (content.text, beside.answer, beside.reasoning, *orders, *metadata_in(item))
    return replace(content, text="\n".join(text for text in texts if text))


def _is_call(block: object) -> bool:
    kind = kind_of(block)
    return kind in CALL_KINDS or kind.startswith("server_tool")


def _pairs(command: Any) -> list[tuple[str, object]]:
    """Return keys and values of a command's update, as LangGraph reads it: from mappings, pairs, models, dataclasses.

    Raises:
        InputError: it cannot be told.
    """
    if isinstance(command.update, BaseMessage) or not hasattr(command, "_update_as_tuples"):
        # LangGraph would take a lone message for a state with the message's fields.
        raise InputError(f"cannot judge an update that is a {type(command.update).__name__}; give a dict")
    pairs: list[tuple[str, object]] = list(command._update_as_tuples())
    return pairs


def _messages_in(key: str, value: object) -> list[object]:
    """Return the messages among the values of an update.

    Raises:
        InputError: what stands for messages cannot be read.
    """
    items = list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
    if key not in (_MESSAGES, _WHOLE):
        return items if any(isinstance(item, BaseMessage) for item in items) else []
    if not isinstance(value, list | tuple | str | Mapping | BaseMessage | None):
        raise InputError(f"cannot judge messages that are given as a {type(value).__name__}; give a list")
    return items


def _update_messages(command: Any) -> list[object]:
    return [item for key, value in _pairs(command) for item in _messages_in(key, value)]


def _command(command: Any, texts: list[str | None], *, error: bool) -> Any:
    if all(text is None for text in texts):
        return command
    left = list(texts)
    pairs: list[tuple[str, Any]] = []
    for key, value in _pairs(command):
        items = _messages_in(key, value)
        kept = [_instead(item, text, error=error) for item, text in zip(items, left, strict=False)]
        left = left[len(items) :]
        pairs.append((key, value if not items else kept if isinstance(value, list | tuple) else kept[0]))
    return replace(command, update=_updated(command.update, pairs))


def _updated(update: Any, pairs: list[tuple[str, Any]]) -> Any:
    """Return an update of the same type with other values."""
    changes = dict(pairs)
    if isinstance(update, Mapping):
        return changes
    if set(changes) == {_WHOLE}:
        return changes[_WHOLE]
    if isinstance(update, list | tuple):
        return pairs
    copied = copy.copy(update)
    for key, value in pairs:
        if value is not getattr(update, key):
            object.__setattr__(copied, key, value)
    return copied


def _instead(item: Any, text: str | None, *, error: bool) -> Any:
    if text is None:
        return item
    if not isinstance(item, BaseMessage):
        item = _as_message(item)
    if not isinstance(item, BaseMessage):
        return text
    name = item.name if item.name and is_name(item.name) else None
    if isinstance(item, ToolMessage):
        status = "error" if error else item.status
        return ToolMessage(content=text, tool_call_id=item.tool_call_id, id=item.id, name=name, status=status)
    if isinstance(item, AIMessage):
        return AIMessage(content=text, id=item.id, name=name)
    return item.model_copy(update={"content": text, "name": name, "additional_kwargs": {}, "response_metadata": {}})


def _as_message(item: Any) -> Any:
    """Return a message that LangGraph would make of an item, so that what stands in for it answers the same call."""
    if isinstance(item, str):
        return item
    try:
        return convert_to_messages([item])[0]
    except Exception:
        return item
