"""What a model's message says, thinks and orders: every string in it that is not plainly machinery."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.flow import Part
from guardrail_plugin.runnables.content import MEDIA_KINDS, text_in

_REASONING = frozenset({"reasoning", "thinking", "reasoning_content", "redacted_thinking", "thought"})
CALL_KINDS = frozenset(
    {
        "tool_use", "tool_call", "tool_call_chunk", "invalid_tool_call", "input_json_delta", "function_call",
        "custom_tool_call",
    }
)  # fmt: skip
"""Blocks that LangChain also reads into ``tool_calls``, ``invalid_tool_calls`` and ``tool_call_chunks``."""

_MACHINERY = frozenset(
    {
        "type", "id", "index", "role", "signature", "thought_signature", "encrypted_content", "data", "mime_type",
        "media_type", "base64", "file_id", "status", "phase", "call_id", "tool_call_id", "tool_use_id", "item_id",
        "cache_control", "detail", "format", "finish_reason", "object", "model", "expires_at",
    }
)  # fmt: skip
"""Keys whose values no reader sees as text: identifiers, enumerations, encoded bytes."""

_LINKS = frozenset({"url", "image_url", "source", "source_type"})
"""Of media: where they are, not what they say."""

_ENCODED = re.compile(r"data:[\w.+/;=-]{1,100};base64,[A-Za-z0-9+/=_-]*")

_KWARGS_REASONING = frozenset({"reasoning_content", "reasoning", "thinking", "reasoning_details"})
_KWARGS_CALLS = frozenset({"tool_calls", "function_call"})
_MAX_DEPTH = 12


def part_of(message: BaseMessage) -> Part:
    """Read one message or chunk. Blocks of unknown kinds count as answer: what a rail does not know it judges."""
    answer: list[str] = []
    reasoning: list[str] = []
    acts = bool(
        getattr(message, "tool_calls", None)
        or getattr(message, "tool_call_chunks", None)
        or getattr(message, "invalid_tool_calls", None)
    )
    content = message.content
    for block in [content] if isinstance(content, str) else content:
        told = block.get("type") if isinstance(block, Mapping) else None
        kind = told if isinstance(told, str) else ""  # what is no name is no known kind
        if kind in CALL_KINDS or kind.startswith("server_tool"):
            acts = True
        elif kind in _REASONING:
            reasoning.extend(_strings(block))
        elif kind in MEDIA_KINDS:
            answer.extend(_beside(block))
        elif kind == "non_standard" and isinstance(block, Mapping):
            answer.extend(_strings(block.get("value")))
        else:
            answer.extend(_strings(block))
    for key, value in message.additional_kwargs.items():
        if key in _KWARGS_CALLS:
            acts = acts or bool(value)
        elif key in _KWARGS_REASONING:
            reasoning.extend(_strings(value))
        elif "signature" not in key:
            answer.extend(_strings(value))
    return Part("".join(answer), "".join(reasoning), acts)


def _beside(block: object) -> Iterator[str]:
    """Return the text in a block of media: captions, titles, what a document says."""
    if isinstance(block, Mapping):
        yield from _strings({key: value for key, value in block.items() if key not in _LINKS})
        yield text_in({"source": block.get("source")})


def _strings(value: object, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        # Never a message's own text, whatever it looks like: only values inside blocks.
        if depth == 0 or not _ENCODED.fullmatch(value):
            yield str(value)
    elif depth > _MAX_DEPTH:
        return
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in _MACHINERY:
                yield from _strings(inner, depth + 1)
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        for inner in value:
            yield from _strings(inner, depth + 1)


def call_checks(message: BaseMessage) -> tuple[Check, ...]:
    """Return one check for each tool call of a message, unreadable and server-side ones too."""
    checks = tuple(call_check(name, arguments) for name, arguments in client_calls(message))
    checks += other_call_checks(message, known=isinstance(message, AIMessage) and bool(checks))
    if not checks:
        raw = message.additional_kwargs.get("tool_calls") or getattr(message, "tool_call_chunks", None)
        return (call_check("tool_calls", raw),) if raw else ()
    return checks


def client_calls(message: BaseMessage) -> list[tuple[str, object]]:
    """Return name and arguments of each call that is for the caller's own tools, unreadable ones last."""
    if isinstance(message, AIMessageChunk) and message.tool_call_chunks:
        # Not tool_calls: what LangChain cannot parse of a call is missing there, and leaves all the same.
        return [(call["name"] or "", _parsed(call["args"] or "")) for call in message.tool_call_chunks]
    calls: list[tuple[str, object]] = [(call["name"], call["args"]) for call in getattr(message, "tool_calls", ())]
    unreadable = getattr(message, "invalid_tool_calls", ())
    return calls + [(call.get("name") or "", call.get("args") or "") for call in unreadable]


def other_call_checks(message: BaseMessage, *, known: bool = True) -> tuple[Check, ...]:
    """Return the checks of calls that no tool of the caller answers: server-side ones, and OpenAI's old form.

    Args:
        known: LangChain has read the blocks of ordinary calls into ``tool_calls``.
    """
    checks: list[Check] = []
    for block in () if isinstance(message.content, str) else message.content:
        if not isinstance(block, Mapping):
            continue
        kind = str(block.get("type", ""))
        if kind.startswith("server_tool") or (kind in CALL_KINDS and not known):
            rest = {key: value for key, value in block.items() if key not in _MACHINERY and key != "name"}
            checks.append(call_check(str(block.get("name", kind)), rest))
    legacy = message.additional_kwargs.get("function_call")
    if isinstance(legacy, Mapping):
        checks.append(call_check(str(legacy.get("name", "")), legacy.get("arguments", "")))
    return tuple(checks)


def _parsed(arguments: str) -> object:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def call_check(name: str, arguments: object) -> Check:
    """Render a tool call as data, the way guardians are trained on them: the name, then the arguments as JSON."""
    return Check(f"{name} {as_json(arguments)}", rail="tool_call")


def as_json(value: object) -> str:
    """Return a value as JSON, what is no JSON type as its own dump or text."""
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json")
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    return str(value)
