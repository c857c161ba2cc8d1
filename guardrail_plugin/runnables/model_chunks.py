"""The chunks of a guarded model's answer: read from any model, kept where calls are judged, yielded as models do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TypeVar

from langchain_core.messages import AIMessage
from langchain_core.messages.ai import AIMessageChunk, UsageMetadata, add_usage
from langchain_core.messages.tool import ToolCallChunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.utils.json import parse_partial_json

from guardrail_plugin.core.errors import InputError
from guardrail_plugin.flow import Outcome
from guardrail_plugin.runnables.block_kinds import is_name
from guardrail_plugin.runnables.blocks import as_json, client_calls, part_of
from guardrail_plugin.runnables.streams import closing, summed
from guardrail_plugin.runnables.tool_stage import ToolStage
from guardrail_plugin.runnables.withheld import withhold

M = TypeVar("M", bound=AIMessage)

_NAMED = "model_name"


class Orders:
    """The end of an answer's stream, from its first tool call on, which is kept until the calls are judged.

    Nothing of it comes before the whole answer has been judged: ``HoldBack`` sees to that.
    """

    def __init__(self, calls: ToolStage | None) -> None:
        self.chunks: list[AIMessageChunk] = []
        self._on = calls is not None

    def keeps(self, chunk: object) -> bool:
        """Keep the chunk if it belongs to the end."""
        if not self._on or not isinstance(chunk, AIMessageChunk) or not (self.chunks or part_of(chunk).acts):
            return False
        self.chunks.append(chunk)
        return True

    def calls(self) -> list[tuple[str, object]]:
        """Return what is ordered.

        Raises:
            InputError: the chunks do not add up.
        """
        return client_calls(summed(self.chunks)) if self.chunks else []

    def withhold(self, outcomes: Sequence[Outcome]) -> None:
        """Take out what was blocked."""
        whole = summed(self.chunks)
        marked = withhold(whole, outcomes)
        if marked is not whole:
            self.chunks = [marked]


class Leaving:
    """The chunks of an answer as they leave. Made for one stream."""

    def __init__(self, came: Sequence[AIMessageChunk]) -> None:
        """Take in the list to which those that come from the model are added."""
        self._came = came
        self._left = 0

    def leave(self, chunk: object) -> AIMessageChunk:
        """Return a chunk as it leaves: what stands in for the rest of the answer tells what that has cost.

        Raises:
            InputError: it is no message of a model.
        """
        if self._left < len(self._came) and (came := self._came[self._left]) is chunk:
            self._left += 1
            return came
        left, rest = self._came[: self._left], self._came[self._left :]
        # Chunks add up, names too.
        return charged(as_chunk(chunk), rest, named=not any(_NAMED in one.response_metadata for one in left))


def charged(instead: M, answer: Sequence[AIMessage], *, named: bool = True) -> M:
    """Write onto what stands in for an answer what that has cost, and which model it was.

    The call was made and is to be paid for, whatever became of the answer.

    Args:
        answer: the answer, or the chunks of it that count.
        named: whether to name the model.
    """
    used: UsageMetadata | None = None
    for message in answer:
        if message.usage_metadata is not None:
            used = add_usage(used, message.usage_metadata)
    instead.usage_metadata = used
    names = [message.response_metadata.get(_NAMED) for message in answer] if named else []
    name = next((name for name in names if isinstance(name, str) and is_name(name)), None)
    if name is not None:
        instead.response_metadata.setdefault(_NAMED, name)
    return instead


def teed(source: Iterator[object], seen: list[AIMessageChunk]) -> Iterator[object]:
    """Pass chunks on and keep them. Closing it closes the source."""
    try:
        for message in source:
            chunk = as_chunk(message)
            seen.append(chunk)
            yield chunk
    finally:
        source.close()  # type: ignore[attr-defined]


async def ateed(source: AsyncIterator[object], seen: list[AIMessageChunk]) -> AsyncIterator[object]:
    """Like ``teed``. Cancellation: closes the source, then passes."""
    async with closing(source) as messages:
        async for message in messages:
            chunk = as_chunk(message)
            seen.append(chunk)
            yield chunk


def as_chunk(message: object) -> AIMessageChunk:
    """Return a chunk: models that cannot stream give one whole message.

    Raises:
        InputError: it is no message of a model.
    """
    if isinstance(message, AIMessageChunk):
        return message
    if not isinstance(message, AIMessage):
        raise InputError(f"a chat model answered with a {type(message).__name__}")
    fields = {name: getattr(message, name) for name in AIMessage.model_fields if name != "type"}
    written = [_raw(call["args"]) for call in message.tool_calls]
    written += [_unreadable(call["args"]) for call in message.invalid_tool_calls]
    calls = [
        ToolCallChunk(type="tool_call_chunk", name=call["name"], args=arguments, id=call["id"], index=index)
        for index, (call, arguments) in enumerate(
            zip((*message.tool_calls, *message.invalid_tool_calls), written, strict=True)
        )
    ]
    return AIMessageChunk(**fields, tool_call_chunks=calls, chunk_position="last")


def _unreadable(arguments: str | None) -> str:
    """Return arguments that stay unreadable: LangChain would complete what is cut off, and call it valid."""
    try:
        completed = parse_partial_json(arguments or "null")
    except (ValueError, RecursionError):
        return arguments or "null"
    return as_json(arguments) if isinstance(completed, dict) else arguments or "null"


def _raw(arguments: object) -> str:
    return arguments if isinstance(arguments, str) else as_json(arguments)


def as_message(message: object) -> AIMessage:
    """Return a model's message.

    Raises:
        InputError: it is none.
    """
    if not isinstance(message, AIMessage):
        raise InputError(f"a chat model answered with a {type(message).__name__}")
    return message


def generation(chunk: object) -> ChatGenerationChunk:
    """Wrap a chunk as chat models yield it."""
    return ChatGenerationChunk(message=as_chunk(chunk))
