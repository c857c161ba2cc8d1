"""What a tool returned, as texts to judge, and the same with some of them replaced."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.messages.tool import ToolOutputMixin

from guardrail_plugin.runnables.blocks import part_of


def holds_messages(output: object) -> bool:
    """Return whether it is, or holds, messages, rather than plain content for one."""
    return isinstance(output, ToolOutputMixin | BaseMessage) or _is_list_of_messages(output)


def texts_of(output: Any) -> list[str]:
    """Return what a model would read of it: one text for each message in it, or one for all."""
    if isinstance(output, BaseMessage):
        return [_said(output)]
    if is_command(output):
        return [_said(item) for item in _update_messages(output)]
    if _is_list_of_messages(output):
        return [text for item in output for text in texts_of(item)]
    return [plain_text(output)]


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
    return isinstance(output, list | tuple) and any(isinstance(item, ToolOutputMixin) for item in output)


def plain_text(output: object) -> str:
    """Return a tool's plain output as LangChain writes it into a ``ToolMessage``; content blocks as their strings."""
    if isinstance(output, str):
        return output
    if isinstance(output, list) and output and all(isinstance(item, str | Mapping) for item in output):
        return _said(AIMessage(content=output))
    try:
        return json.dumps(output, ensure_ascii=False)
    except (TypeError, ValueError):
        return str(output)


def _said(item: object) -> str:
    if not isinstance(item, BaseMessage):
        return plain_text(item)
    part = part_of(item)
    return "\n".join(text for text in (part.answer, part.reasoning) if text)


def _update_messages(command: Any) -> list[object]:
    update = command.update
    pairs = update.items() if isinstance(update, Mapping) else update if isinstance(update, list | tuple) else ()
    found: list[object] = []
    for pair in pairs:
        if isinstance(pair, tuple) and len(pair) == 2 and pair[0] == "messages":
            found += list(pair[1]) if isinstance(pair[1], list | tuple) else [pair[1]]
    return found


def _command(command: Any, texts: list[str | None], *, error: bool) -> Any:
    if all(text is None for text in texts):
        return command
    messages = [_instead(item, text, error=error) for item, text in zip(_update_messages(command), texts, strict=True)]
    kept = [message for message in messages if message is not None]
    pairs = command.update.items() if isinstance(command.update, Mapping) else command.update
    update = {**{key: value for key, value in pairs if key != "messages"}, "messages": kept}
    return dataclasses.replace(command, update=update)


def _instead(item: Any, text: str | None, *, error: bool) -> Any:
    if text is None:
        return item
    if isinstance(item, ToolMessage):
        return ToolMessage(
            content=text,
            tool_call_id=item.tool_call_id,
            id=item.id,
            name=item.name,
            status="error" if error else item.status,
        )
    if isinstance(item, AIMessage):
        return AIMessage(content=text, id=item.id, name=item.name)
    return item.model_copy(update={"content": text, "additional_kwargs": {}}) if isinstance(item, BaseMessage) else text
