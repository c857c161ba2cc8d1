"""What a model's message says, thinks and orders: every string in it that is not plainly machinery."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping

from langchain_core.messages import AIMessageChunk, BaseMessage, BaseMessageChunk
from pydantic import BaseModel

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.flow import Part
from guardrail_plugin.runnables.block_kinds import (
    CALL_KINDS,
    MEDIA_KINDS,
    NAMES,
    REASONING_KINDS,
    SEALED,
    is_name,
    is_opaque,
)
from guardrail_plugin.runnables.content import strings_in, strings_of_data
from guardrail_plugin.runnables.metadata import MACHINERY

KWARGS_REASONING = frozenset({"reasoning_content", "reasoning", "thinking", "reasoning_details"})
KWARGS_CALLS = frozenset({"tool_calls", "function_call"})
KWARGS_SEALED = SEALED | {"__gemini_function_call_thought_signatures__", "__openai_function_call_ids__"}


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
    thoughts: set[str] = set()
    for key, value in message.additional_kwargs.items():
        if key in KWARGS_CALLS:
            acts = acts or bool(value)
        elif key in KWARGS_REASONING:
            told = _beside(key, value, keys=keys)
            # vLLM and OpenRouter tell each thought twice; in pieces, that would double every piece of a word.
            if (thought := "".join(told)) not in thoughts:
                thoughts.add(thought)
                reasoning.extend(told)
        else:
            answer.extend(_beside(key, value, keys=keys))
    return Part("".join(answer), "".join(reasoning), acts)


def kind_of(block: object) -> str:
    """Return the kind that a block says it is of. What is no name is no kind."""
    told = block.get("type") if isinstance(block, Mapping) else None
    return told if isinstance(told, str) else ""


def _beside(key: str, value: object, *, keys: bool) -> list[str]:
    """Return the strings in what a provider puts beside the content."""
    if key in KWARGS_SEALED:
        return [text for text in strings_of_data(value, keys=keys) if not is_opaque(text)]
    if key in MEDIA_KINDS and isinstance(value, Mapping):
        return strings_in({"type": key, **value}, keys=keys)
    if key in KWARGS_REASONING:
        return strings_in({"type": "reasoning", "reasoning": value}, keys=keys)
    told = strings_of_data(value, keys=keys)
    return [text for text in told if not is_name(text)] if key in MACHINERY else told


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
    judged = _Judged(_ordered(message))
    checks: list[Check] = []
    for block in () if isinstance(message.content, str) else message.content:
        if not isinstance(block, Mapping):
            continue
        kind = kind_of(block)
        if kind.startswith("server_tool"):
            checks.append(call_check(str(block.get("name", kind)), _told(block, twins=())))
        elif kind in CALL_KINDS:
            checks += _block_checks(block, judged)
    checks += _raw_checks(message.additional_kwargs.get("tool_calls"), judged)
    legacy = message.additional_kwargs.get("function_call")
    checks += _raw_checks([{"function": legacy}] if legacy else (), judged)
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


class _Twins:
    """Calls that are judged anyway: their names, and what they say, as a guardian would read it."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.arguments: set[str] = set()
        self.calls: set[tuple[str, str]] = set()

    def add(self, name: str, arguments: str | None) -> None:
        self.names.add(name)
        if arguments is not None:
            self.arguments.add(arguments)
            self.calls.add((name, arguments))


class _Judged:
    """The client calls of a message, to be found by id: an answer may hold thousands, and as many repeated."""

    def __init__(self, ordered: Iterable[tuple[object, str, object]]) -> None:
        self.all = _Twins()
        self._by_id: dict[str, _Twins] = {}
        for call_id, name, arguments in ordered:
            written = _written(arguments)
            self.all.add(name, written)
            if isinstance(call_id, str):
                self._by_id.setdefault(call_id, _Twins()).add(name, written)

    def twins(self, block: Mapping[object, object]) -> list[_Twins]:
        """Return the calls that a block may repeat: those of its ids; any, where it has none."""
        ids = call_ids(block)
        return [self._by_id[name] for name in ids if name in self._by_id] if ids else [self.all]


def _block_checks(block: Mapping[object, object], judged: _Judged) -> Iterator[Check]:
    """Check what a block says of a call that the call of the same id does not."""
    twins = judged.twins(block)
    rest = _told(block, twins=twins)
    name = str(block.get("name") or "")
    if rest or (name and not any(name in twin.names for twin in twins)):
        yield call_check(name or kind_of(block), rest)


def _told(block: Mapping[object, object], *, twins: Collection[_Twins]) -> dict[object, object]:
    """Return what a block of a call says beside the tool's name.

    Args:
        twins: calls whose arguments are judged anyway. Without any, numbers count too.
    """
    alone = not any(twin.names for twin in twins)
    rest: dict[object, object] = {}
    for key, value in block.items():
        if key == "name" or not value:
            continue
        if not alone and any(written in twin.arguments for written in _ways(value) for twin in twins):
            continue
        if _texts(key, value) or (alone and key not in NAMES | SEALED):
            rest[key] = value
    return rest


def _texts(key: object, value: object) -> list[str]:
    return strings_in({"type": "tool_call", key: value}, keys=True)


def _raw_checks(given: object, judged: _Judged) -> Iterator[Check]:
    """Check calls as OpenAI writes them, but for those that are among the calls that are judged anyway."""
    for raw in given if isinstance(given, list | tuple) else [given] if given else ():
        function = raw.get("function") if isinstance(raw, Mapping) else None
        if not isinstance(raw, Mapping) or not isinstance(function, Mapping):
            yield call_check("tool_calls", raw)
            continue
        name, arguments = str(function.get("name") or ""), function.get("arguments", "")
        rest = {key: value for key, value in raw.items() if key != "function" and _texts(key, value)}
        rest |= {key: value for key, value in function.items() if key not in ("name", "arguments")}
        if not any((name, written) in judged.all.calls for written in _ways(arguments)):
            yield call_check(name, _parsed(arguments) if isinstance(arguments, str) else arguments)
        if rest:
            yield call_check(name, rest)


def _ways(value: object) -> Iterator[str]:
    """Write arguments in each of the ways in which a call that is known may have them."""
    # LangChain's name for the one text that a custom tool is given.
    ways = (_parsed(value), value, {"__arg1": value}) if isinstance(value, str) else (value,)
    yield from (written for written in map(_written, ways) if written is not None)


def _written(arguments: object) -> str | None:
    """Return what all arguments that a guardian would read alike have in common; ``None``: they are like no others."""
    try:
        return json.dumps(arguments, ensure_ascii=False, sort_keys=True, default=_plain)
    except (TypeError, ValueError, RecursionError):
        return None


def _parsed(arguments: str) -> object:
    try:
        return json.loads(arguments, object_pairs_hook=_once)
    except (ValueError, RecursionError):
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
    if isinstance(value, BaseModel):  # its warnings about a value of the wrong type would print the value
        return value.model_dump(mode="json", warnings=False)
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json")
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    return str(value)
