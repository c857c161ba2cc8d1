"""What a caller gets in place of the chain's output: of the same type as that output would have been."""

from __future__ import annotations

import types
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator
from typing import Annotated, Literal, TypeAlias, Union, get_args, get_origin

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.runnables import Runnable
from pydantic import BaseModel

from guardrail_plugin.core.errors import ConfigError

OutputKind: TypeAlias = Literal["message", "text"]

_STREAMS = (Iterator, Iterable, Generator, AsyncIterator, AsyncIterable, AsyncGenerator)


def output_kind(runnable: Runnable[object, object], output_type: object = None) -> OutputKind | None:
    """Tell whether a Runnable answers with messages or with text. ``None``: with something else, or unknown.

    Raises:
        ConfigError: ``output_type`` is neither ``str`` nor a message class.
    """
    if output_type is not None:
        kind = _kind(output_type)
        if kind is None:
            raise ConfigError(f"output_type must be str or AIMessage, got {output_type!r}; for others pass on_block")
        return kind
    try:
        kind = _kind(runnable.OutputType)
    except TypeError:  # Runnable.OutputType raises it where it cannot infer
        return None
    return kind or _kind(_declared(runnable))


def _declared(runnable: Runnable[object, object]) -> object:
    """Return the output annotation as resolved by the schema: under postponed evaluation OutputType is a string."""
    try:
        schema = runnable.get_output_schema()
    except (TypeError, NameError, AttributeError, ValueError):
        return None
    root = schema.model_fields.get("root") if issubclass(schema, BaseModel) else None
    return None if root is None else root.annotation


def _kind(annotation: object) -> OutputKind | None:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind(get_args(annotation)[0])
    if origin in _STREAMS:
        return _kind(get_args(annotation)[0])
    if origin is Union or origin is types.UnionType:
        kinds = {_kind(member) for member in get_args(annotation) if member is not type(None)}
        return kinds.pop() if len(kinds) == 1 else None
    if not isinstance(annotation, type) or origin is not None:
        return None
    if issubclass(annotation, str):
        return "text"
    return "message" if issubclass(annotation, BaseMessage) else None


def reply(
    text: str,
    kind: OutputKind,
    *,
    fields: dict[str, object],
    chunk: bool = False,
    message_id: str | None = None,
    blocks: bool = False,
) -> str | AIMessage | AIMessageChunk:
    """Wrap a safeguard response, or an edited answer, as the chain's output type.

    Args:
        fields: what a message carries in ``response_metadata["guardrail"]``.
        chunk: make a message addable to the chunks of a stream.
        message_id: the id of the message that it stands in for, so that it replaces it in histories.
        blocks: that stream's chunks carry content blocks.
    """
    if kind == "text":
        return text
    metadata = {"guardrail": fields}
    if not chunk:
        return AIMessage(content=text, response_metadata=metadata, id=message_id)
    content: str | list[str | dict[str, object]] = [{"type": "text", "text": text}] if blocks else text
    return AIMessageChunk(content=content, response_metadata=metadata, id=message_id, chunk_position="last")
