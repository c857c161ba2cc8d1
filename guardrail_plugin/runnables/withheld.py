"""Take single tool calls out of a model's message, so that their siblings go on and nobody reads their arguments.

A withheld call keeps its name and id, because model interfaces want an answer to every call; in place of its arguments
stands a mark, which ``ToolStage`` refuses. A model that writes the mark itself gets a refusal, and nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage

from guardrail_plugin.flow import Blocked, Failed, Outcome
from guardrail_plugin.flow.tool_rails import CALL_BLOCKED, CALL_FORBIDDEN, CALL_UNJUDGED
from guardrail_plugin.runnables.block_kinds import CALL_KINDS
from guardrail_plugin.runnables.blocks import call_ids, kind_of

MARK = "withheld_by_guardrail"
"""The only argument of a withheld call: a hazard code, ``unjudged`` or ``forbidden``."""

_CODE = re.compile(r"\w{1,24}")

M = TypeVar("M", bound=BaseMessage)


def withhold(message: M, outcomes: Sequence[Outcome]) -> M:
    """Return the message with a mark in place of the arguments of every call that was blocked.

    Args:
        outcomes: one for each of ``client_calls(message)``, in its order.

    Raises:
        GuardrailError: an outcome is ``Failed``.
    """
    marks = [_mark(outcome) for outcome in outcomes]
    if not any(marks) or not isinstance(message, AIMessage):
        return message
    given: dict[str, Any] = {"additional_kwargs": _without_calls(message.additional_kwargs)}
    if isinstance(message, AIMessageChunk) and message.tool_call_chunks:
        calls: list[Any] = list(message.tool_call_chunks)
        given["tool_call_chunks"] = [
            call if mark is None else {**call, "args": json.dumps({MARK: mark})}
            for call, mark in zip(calls, marks, strict=True)
        ]
    else:
        readable = len(message.tool_calls)
        calls = [*message.tool_calls, *message.invalid_tool_calls]
        marked = [_marked(call, mark) for call, mark in zip(calls, marks, strict=True)]
        given["tool_calls"] = marked[:readable] + [call for call in marked[readable:] if call["type"] == "tool_call"]
        given["invalid_tool_calls"] = [call for call in marked[readable:] if call["type"] != "tool_call"]
    hidden = {call["id"] for call, mark in zip(calls, marks, strict=True) if mark is not None}
    given["content"] = _without_blocks(message.content, {call["id"] for call in calls} - hidden, hidden)
    return _rebuilt(message, given)


def refusal_of(arguments: object) -> str | None:
    """Return why a call with these arguments is refused, if they are a mark."""
    if not isinstance(arguments, Mapping) or set(arguments) != {MARK}:
        return None
    mark = arguments[MARK]
    if mark == "unjudged":
        return CALL_UNJUDGED
    if mark == "forbidden":
        return CALL_FORBIDDEN
    hazard = f" ({mark})" if isinstance(mark, str) and mark != "blocked" and _CODE.fullmatch(mark) else ""
    return CALL_BLOCKED.format(hazard=hazard)


def _mark(outcome: Outcome) -> str | None:
    if isinstance(outcome, Failed):
        raise outcome.error
    if not isinstance(outcome, Blocked):
        return None
    if outcome.error is not None:
        return "unjudged"
    if outcome.verdict is None:
        return "forbidden"
    return outcome.verdict.hazard or "blocked"


def _marked(call: Any, mark: str | None) -> Any:
    if mark is None:
        return call
    return {"type": "tool_call", "name": call["name"], "id": call["id"], "args": {MARK: mark}}


def _rebuilt(message: M, given: dict[str, Any]) -> M:
    # Through the constructor: a chunk reads its tool calls from their chunks only there.
    fields = {name: getattr(message, name) for name in type(message).model_fields if name not in ("type", *given)}
    if isinstance(message, AIMessageChunk):
        fields.pop("tool_calls", None)
        fields.pop("invalid_tool_calls", None)
    return type(message)(**{**fields, **given})


def _without_calls(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in kwargs.items() if key not in ("tool_calls", "function_call")}


def _without_blocks(content: Any, kept: set[str | None], hidden: set[str | None]) -> Any:
    """Leave out the blocks in which providers repeat a call; LangChain writes them anew from ``tool_calls``."""
    if isinstance(content, str):
        return content
    blocks: list[Any] = []
    for block in content:
        # OpenAI's blocks have an id of their own beside the call's. One without any continues some call: whose is not
        # worth finding out.
        ids = call_ids(block) if kind_of(block) in CALL_KINDS else None
        if ids is None or (ids & kept and not ids & hidden):
            blocks.append(block)
    return blocks
