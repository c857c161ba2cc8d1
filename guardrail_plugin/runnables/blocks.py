"""What a model's message says, thinks and orders: every string in it that is not plainly machinery."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence

from langchain_core.messages import AIMessageChunk, BaseMessage, BaseMessageChunk

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.flow import Part
from guardrail_plugin.runnables.block_kinds import CALL_KINDS, MEDIA_KINDS, NAMES, REASONING_KINDS, SEALED, is_opaque
from guardrail_plugin.runnables.content import strings_in, strings_of_data

_KWARGS_REASONING = frozenset({"reasoning_content", "reasoning", "thinking", "reasoning_details"})
_KWARGS_CALLS = frozenset({"tool_calls", "function_call"})
_KWARGS_SEALED = SEALED | {"__gemini_function_call_thought_signatures__", "__openai_function_call_ids__"}


def part_of(message: BaseMessage) -> Part:
    """Read one message or chunk. Blocks of unknown kinds count as answer: what a rail does not know it judges.

    Raises:
        InputError: its content is nested without end.
    """
    keys = not isinstance(message, BaseMessageChunk)
    answer: list[str] = []
    reasoning: list[str] = []
    acts = bool(
        getattr(message, "tool_calls", None)
        or getattr(message, "tool_call_chunks", None)
        or getattr(message, "invalid_tool_calls", None)
    )
    content = message.content
    for block in [content] if isinstance(content, str) else content:
        kind = kind_of(block)
        if kind in CALL_KINDS or kind.startswith("server_tool"):
            acts = True
        else:
            (reasoning if kind in REASONING_KINDS else answer).extend(strings_in(block, keys=keys))
    for key, value in message.additional_kwargs.items():
        if key in _KWARGS_CALLS:
            acts = acts or bool(value)
        else:
            (reasoning if key in _KWARGS_REASONING else answer).extend(_beside(key, value, keys=keys))
    return Part("".join(answer), "".join(reasoning), acts)


def kind_of(block: object) -> str:
    """Return the kind that a block says it is of. What is no name is no kind."""
    told = block.get("type") if isinstance(block, Mapping) else None
    return told if isinstance(told, str) else ""


def _beside(key: str, value: object, *, keys: bool) -> list[str]:
    """Return the strings in what a provider puts beside the content."""
    if key in _KWARGS_SEALED:
        return [text for text in strings_of_data(value, keys=keys) if not is_opaque(text)]
    if key in MEDIA_KINDS and isinstance(value, Mapping):
        return strings_in({"type": key, **value}, keys=keys)
    if key in _KWARGS_REASONING:
        return strings_in({"type": "reasoning", "reasoning": value}, keys=keys)
    return strings_of_data(value, keys=keys)


def call_checks(message: BaseMessage) -> tuple[Check, ...]:
    """Return one check for each tool call of a message, unreadable and server-side ones too."""
    checks = tuple(call_check(name, arguments) for name, arguments in client_calls(message))
    return checks + other_call_checks(message)


def client_calls(message: BaseMessage) -> list[tuple[str, object]]:
    """Return name and arguments of each call that is for the caller's own tools, unreadable ones last."""
    return [(name, arguments) for _, name, arguments in _ordered(message)]


def other_call_checks(message: BaseMessage) -> tuple[Check, ...]:
    """Return the checks of all that a message orders beside its ``client_calls``.

    These are server-side calls, OpenAI's old form, and whatever providers repeat of a call in content blocks and in
    ``additional_kwargs``, as far as it is not the same call.
    """
    ordered = _ordered(message)
    checks: list[Check] = []
    for block in () if isinstance(message.content, str) else message.content:
        if not isinstance(block, Mapping):
            continue
        kind = kind_of(block)
        if kind.startswith("server_tool"):
            checks.append(call_check(str(block.get("name", kind)), _told(block, told=())))
        elif kind in CALL_KINDS:
            checks += _block_checks(block, ordered)
    calls = [(name, arguments) for _, name, arguments in ordered]
    checks += _raw_checks(message.additional_kwargs.get("tool_calls"), calls)
    legacy = message.additional_kwargs.get("function_call")
    checks += _raw_checks([{"function": legacy}] if legacy else (), calls)
    return tuple(checks)


def call_ids(block: Mapping[object, object]) -> frozenset[object]:
    """Return every id by which a block may name its call."""
    given = (block.get(key) for key in ("id", "call_id", "tool_call_id"))
    return frozenset(name for name in given if isinstance(name, str) and name)


def _ordered(message: BaseMessage) -> list[tuple[object, str, object]]:
    """Return id, name and arguments of each client call."""
    if isinstance(message, AIMessageChunk) and message.tool_call_chunks:
        # Not tool_calls: what LangChain cannot parse of a call is missing there, and leaves all the same.
        return [(call["id"], call["name"] or "", _parsed(call["args"] or "")) for call in message.tool_call_chunks]
    readable = [(call["id"], call["name"], call["args"]) for call in getattr(message, "tool_calls", ())]
    unreadable = getattr(message, "invalid_tool_calls", ())
    return readable + [(call.get("id"), call.get("name") or "", call.get("args") or "") for call in unreadable]


def _block_checks(block: Mapping[object, object], ordered: Sequence[tuple[object, str, object]]) -> Iterator[Check]:
    """Check what a block says of a call that the call of the same id does not."""
    ids = call_ids(block)
    twins = [(name, arguments) for call_id, name, arguments in ordered if not ids or call_id in ids]
    rest = _told(block, told=[arguments for _, arguments in twins])
    name = str(block.get("name") or "")
    if rest or (name and name not in (other for other, _ in twins)):
        yield call_check(name or kind_of(block), rest)


def _told(block: Mapping[object, object], *, told: Collection[object]) -> dict[object, object]:
    """Return what a block of a call says beside the tool's name.

    Args:
        told: arguments that are judged anyway. Without any, numbers count too.
    """
    rest: dict[object, object] = {}
    for key, value in block.items():
        if key == "name" or not value or _is_any_of(value, told):
            continue
        if _texts(key, value) or (not told and key not in NAMES | SEALED):
            rest[key] = value
    return rest


def _texts(key: object, value: object) -> list[str]:
    return strings_in({"type": "tool_call", key: value}, keys=True)


def _raw_checks(given: object, calls: Collection[tuple[str, object]]) -> Iterator[Check]:
    """Check calls as OpenAI writes them, but for those that are among the calls that are judged anyway."""
    for raw in given if isinstance(given, list | tuple) else [given] if given else ():
        function = raw.get("function") if isinstance(raw, Mapping) else None
        if not isinstance(raw, Mapping) or not isinstance(function, Mapping):
            yield call_check("tool_calls", raw)
            continue
        name, arguments = str(function.get("name") or ""), function.get("arguments", "")
        rest = {key: value for key, value in raw.items() if key != "function" and _texts(key, value)}
        rest |= {key: value for key, value in function.items() if key not in ("name", "arguments")}
        if not any(name == other and _is_any_of(arguments, [known]) for other, known in calls):
            yield call_check(name, _parsed(arguments) if isinstance(arguments, str) else arguments)
        if rest:
            yield call_check(name, rest)


def _is_any_of(value: object, known: Collection[object]) -> bool:
    """Return whether these are arguments that are known, written in whatever way."""
    if not isinstance(value, str):
        return value in known
    parsed = _parsed(value)
    # LangChain's name for the one text that a custom tool is given.
    return parsed in known or value in known or {"__arg1": value} in known


def _parsed(arguments: str) -> object:
    try:
        return json.loads(arguments, object_pairs_hook=_once)
    except ValueError:
        return arguments


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return an object of which nothing is lost.

    Raises:
        ValueError: a name comes twice.
    """
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name comes twice")
    return made


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
