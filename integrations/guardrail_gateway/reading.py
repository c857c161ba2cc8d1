"""From OpenAI's messages to what is judged: the latest user turn, what tools returned, and what a model answers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk

from guardrail_gateway.bodies import JsonObject, as_object
from guardrail_plugin import Check, InputError
from guardrail_plugin.flow import Part, Uncheckable
from guardrail_plugin.runnables.answers import ChunkReader
from guardrail_plugin.runnables.block_kinds import MEDIA_KINDS, is_name
from guardrail_plugin.runnables.blocks import KWARGS_REASONING, KWARGS_SEALED, as_json
from guardrail_plugin.runnables.content import read_content, strings_of_data
from guardrail_plugin.runnables.views import Turn, read_turn

SAID = frozenset({"role", "type", "content", "name"})
"""Keys of a message that are read as what they are."""

_SETTING_CHARS = 40
_ID_CHARS = 80
_IDS = frozenset({"id", "tool_call_id", "call_id"})
_SETTINGS = frozenset(
    {"cache_control", "models", "plugins", "provider", "reasoning", "safety_settings", "thinking", "transforms"}
)
"""Of Anthropic, OpenRouter, Gemini: words in lists and objects, as long as they are words."""

_TAIL = 64
"""Messages that are looked at first: long histories are read from their end, until the latest turn is complete."""

MODEL = ("assistant", "ai")
"""Roles of what the model said."""

_PLAIN = frozenset({"role", "content"})
_CALLS = ("tool_calls", "function_call")
_TOP = frozenset(
    {
        "id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier", "timings",
        "prompt_filter_results", "provider", "prompt_token_ids", "prompt_logprobs",
    }
)  # fmt: skip
_CHOICE = frozenset(
    {
        "index", "finish_reason", "logprobs", "content_filter_results", "content_filter_offsets",
        "native_finish_reason", "token_ids",
    }
)  # fmt: skip
"""Keys in which no reader sees text of the answer. Strings under any other key are judged with it."""

_DELTA = frozenset(
    {
        "role",
        "content",
        "refusal",
        *_CALLS,
        *KWARGS_REASONING,
        *KWARGS_SEALED,
        *MEDIA_KINDS,
        "images",
        "audios",
        "videos",
        "files",
    }
)
"""Keys of a delta that hold pieces. Others stand whole in every chunk, and would part the words of the answer."""

_PADDING = ("obfuscation", "p")
"""Random characters with which OpenAI and Mistral hide how long a chunk's text is."""
_PADDED = re.compile(r"[A-Za-z0-9_-]*")


def read_question(messages: Sequence[object], *, context_turns: int) -> Turn | InputError:
    """Return what the input rail judges of a conversation: the latest user turn, and some turns before it."""
    try:
        return read_turn(readable(tail(messages, context_turns=context_turns)), context_turns=context_turns)
    except InputError as error:
        return error


def readable(messages: Sequence[object]) -> list[object]:
    """Return messages so that LangChain can read each: what it refuses of a model's message is judged elsewhere."""
    return [
        {"content": "", **{key: value for key, value in message.items() if key not in _CALLS}}
        if isinstance(message, dict) and message.get("role", message.get("type")) in MODEL
        else message
        for message in messages
    ]


def tail(messages: Sequence[object], *, context_turns: int) -> Sequence[object]:
    """Return so much of a conversation's end that its latest turn and the context before it are complete."""
    size = _TAIL
    while size < len(messages):
        part = messages[-size:]
        if _complete(part, context_turns):
            return part
        size *= 8
    return messages


def _complete(part: Sequence[object], context_turns: int) -> bool:
    roles = [as_object(message).get("role") for message in part]
    if "user" not in roles:
        return False
    before = roles[: len(roles) - roles[::-1].index("user")]
    if "assistant" not in before:
        return False
    start = len(before) - before[::-1].index("assistant")
    spoken = [m for m, role in zip(part[:start], roles, strict=False) if role in ("user", "assistant") and _said(m)]
    return len(spoken) >= context_turns


def _said(message: object) -> bool:
    content = as_object(message).get("content")
    return isinstance(content, str) and bool(content.strip())


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """What a tool returned.

    Attributes:
        check: its text, which is judged.
        files: kinds of files in it that a model may read and no rail can.
    """

    check: Check
    files: tuple[str, ...] = ()


def read_tool_outputs(messages: Sequence[object]) -> dict[int, ToolOutput]:
    """Return, by index, what tools returned since the model last spoke."""
    found: dict[int, ToolOutput] = {}
    for index in range(len(messages) - 1, -1, -1):
        message = as_object(messages[index])
        if message.get("role") == "assistant":
            break
        if message.get("role") in ("tool", "function"):
            found[index] = read_tool_output(message)
    return dict(sorted(found.items()))


def read_tool_output(message: Mapping[str, object]) -> ToolOutput:
    """Return what is judged of a tool's message: what it returned, a name that is more than a name, and other keys."""
    name = message.get("name")
    said = [name] if isinstance(name, str) and not is_word(name) else []
    said += text_beside(message, SAID)
    content = read_content(message.get("content"))
    return ToolOutput(Check("\n".join([*said, content.text]), rail="tool_output"), content.files)


def text_beside(told: Mapping[str, object], known: frozenset[str]) -> list[str]:
    """Return the text under keys that are not known. A short word right under a key is a setting, or an id.

    So are the words of settings that many servers know.

    Raises:
        InputError: it is nested without end.
    """
    found: list[str] = []
    for key, value in told.items():
        if key in known or not isinstance(value, str | list | dict):
            continue
        if isinstance(value, str) and is_word(value) and len(value) <= (_ID_CHARS if key in _IDS else _SETTING_CHARS):
            continue
        values = strings_of_data(value, keys=False)
        if key not in _SETTINGS or not all(map(is_word, values)):
            names = Counter(strings_of_data(value, keys=True)) - Counter(values)
            found += [*values, *(name for name in names if not is_word(name))]
    return [text for text in found if text.strip()]


def is_word(value: object) -> bool:
    """Return whether it is a name. Many languages write whole sentences without blanks: of other letters it is none."""
    return isinstance(value, str) and value.isascii() and is_name(value)


def unknown_text(value: Mapping[str, object], known: frozenset[str]) -> JsonObject:
    """Return what an object holds under keys that are not known: a rail judges what it does not know."""
    return {key: inner for key, inner in value.items() if key not in known and inner}


def says_more(event: JsonObject) -> bool:
    """Return whether a chunk or an answer holds text beside its choices that is not known."""
    return bool(unknown_text(_unpadded(event), _TOP))


def _unpadded(event: JsonObject) -> JsonObject:
    """Return a chunk without its padding: judged as text, it would stand between the pieces of every word."""
    return {
        key: value
        for key, value in event.items()
        if key not in _PADDING or not isinstance(value, str) or not _PADDED.fullmatch(value)
    }


def as_message(said: Mapping[str, object], extra: Mapping[str, object]) -> str | AIMessageChunk:
    """Return a message, or a piece of one, in the form that the library's rails read."""
    content = said.get("content")
    if not extra and isinstance(content, str | None) and _PLAIN.issuperset(said):
        return content or ""
    others = {key: value for key, value in said.items() if key not in _PLAIN and key != "tool_calls" and value}
    if extra:
        others["extra"] = dict(extra)
    if isinstance(content, dict):
        content = [content]
    readable = content if isinstance(content, str | list) else ("" if content is None else as_json(content))
    return AIMessageChunk(
        content=readable, tool_call_chunks=list(_calls(said.get("tool_calls"))), additional_kwargs=others
    )


def _calls(calls: object) -> Iterable[ToolCallChunk]:
    for position, given in enumerate(calls if isinstance(calls, list) else [] if calls is None else [calls]):
        call = as_object(given)
        function = as_object(call.get("function"))
        rest = {key: value for key, value in call.items() if key not in ("id", "type", "index", "function")}
        arguments = function.get("arguments")
        text = arguments if isinstance(arguments, str) else "" if arguments is None else as_json(arguments)
        if rest or not function:
            # Custom tools and kinds to come: all that they hold is judged.
            text += as_json(rest or given)
        index, name, call_id = call.get("index"), function.get("name"), call.get("id")
        yield tool_call_chunk(
            name=name if isinstance(name, str) else None,
            args=text,
            id=call_id if isinstance(call_id, str) else None,
            index=index if isinstance(index, int) else position,
        )


class ChoiceReader:
    """Reads the chunks of one choice of a streamed completion. Made for one stream.

    Attributes:
        head: the fields that all chunks of the stream share.
    """

    def __init__(self) -> None:
        self.head: JsonObject = {}
        self._reader = ChunkReader()
        self._said: list[str] = []
        self._beside: JsonObject = {}

    @property
    def text(self) -> str:
        """What has been read of the answer so far."""
        return "".join(self._said)

    def read(self, event: JsonObject) -> Part:
        """Return what a chunk adds."""
        if not self.head:
            self.head = {key: event[key] for key in ("id", "created", "model", "system_fingerprint") if key in event}
        choices = event.get("choices")
        choice = as_object(choices[0]) if isinstance(choices, list) and choices else {}
        delta = choice.get("delta")
        known = _CHOICE | {"delta"} if isinstance(delta, dict) else _CHOICE
        said = as_object(delta)
        beside = {f"delta.{key}": value for key, value in unknown_text(said, _DELTA).items()}
        extra = self._new({**unknown_text(_unpadded(event), _TOP), **unknown_text(choice, known), **beside})
        part = self._reader.read(as_message({key: value for key, value in said.items() if key in _DELTA}, {}))
        self._said.append(part.answer)
        if extra:
            part = _beside(part, self._reader.read(as_message({}, extra)))
        return part

    def _new(self, extra: JsonObject) -> JsonObject:
        """Return what the chunk before did not say, too: some servers repeat their citations in every chunk."""
        before, self._beside = self._beside, extra
        return {key: value for key, value in extra.items() if key not in before or before[key] != value}

    def rest(self) -> tuple[Check, ...]:
        """Return the checks of the tool calls that the chunks add up to."""
        return self._reader.rest()

    def nothing(self) -> Uncheckable | None:
        """Tell that there was no text, or something that no rail can read."""
        return self._reader.nothing()


def _beside(part: Part, other: Part) -> Part:
    """Return a part of an answer with what its chunk says elsewhere.

    That is no part of the words of the answer, nor of the reasoning: it goes where this chunk says nothing.
    """
    told = other.answer + other.reasoning
    both = replace(part, acts=part.acts or other.acts, unread=part.unread or other.unread)
    if part.reasoning and not part.answer:
        return replace(both, answer=told)
    return replace(both, reasoning=part.reasoning + told)


def whole_choice(answer: Mapping[str, object], choice: Mapping[str, object], *, first: bool) -> str | AIMessageChunk:
    """Return a complete choice as what the output rail judges; the first one with the answer's own unknown fields."""
    known = _CHOICE | {"message"} if isinstance(choice.get("message"), dict) else _CHOICE
    extra = {**(unknown_text(answer, _TOP) if first else {}), **unknown_text(choice, known)}
    return as_message(as_object(choice.get("message")), extra)
