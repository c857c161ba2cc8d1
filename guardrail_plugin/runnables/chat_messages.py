"""LangChain messages and tools → what a chat template reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from guardrail_plugin.core.errors import ConfigError, InputError

_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}


def template_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Return messages as dicts of role, content and tool calls. Only text is read.

    Raises:
        InputError: a type of message that local models have no role for.
    """
    return [_as_dict(message) for message in messages]


def _as_dict(message: BaseMessage) -> dict[str, Any]:
    role = _ROLES.get(message.type)
    if role is None:
        raise InputError(f"a local chat model cannot read a message of type {message.type!r}")
    as_dict: dict[str, Any] = {"role": role, "content": str(message.text)}
    if isinstance(message, AIMessage) and message.tool_calls:
        as_dict["tool_calls"] = [
            {"type": "function", "id": call["id"], "function": {"name": call["name"], "arguments": call["args"]}}
            for call in message.tool_calls
        ]
    if isinstance(message, ToolMessage):
        as_dict["tool_call_id"] = message.tool_call_id
        if message.name:
            as_dict["name"] = message.name
    return as_dict


def template_tools(
    tools: Sequence[Mapping[str, Any] | type | Callable[..., Any] | BaseTool], choice: object
) -> dict[str, Any]:
    """Return what ``bind`` gets: the tools that the template shows, and the one that must be called, if any.

    Args:
        choice: as in LangChain: ``None`` or ``"auto"``; ``"none"``; ``"any"``, ``"required"`` or ``True``; a tool's
            name, bare or in OpenAI's ``{"function": {"name": ...}}``.

    Raises:
        ConfigError: the choice names no tool.
    """
    shown = [convert_to_openai_tool(dict(tool) if isinstance(tool, Mapping) else tool) for tool in tools]
    names = [tool["function"]["name"] for tool in shown]
    if isinstance(choice, Mapping):
        choice = choice.get("function", {}).get("name")
    if choice in (None, "auto", False):
        return {"tools": shown}
    if choice == "none":
        return {}
    if choice in ("any", "required", True):
        return {"tools": shown, "tool_choice": names[0] if len(names) == 1 else "any"}
    if choice not in names:
        raise ConfigError(f"tool_choice {choice!r} is none of the tools {', '.join(names)}")
    return {"tools": shown, "tool_choice": choice}
