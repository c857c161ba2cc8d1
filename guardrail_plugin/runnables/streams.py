"""Pieces of streams: join the chunks of an input, close an output's source as soon as its reader goes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import reduce
from typing import TypeVar, cast

from langchain_core.messages import AIMessageChunk

T = TypeVar("T")


def joined(parts: Sequence[T]) -> T:
    """Join a stream's chunks as LangChain does: added up where they add, else the last one counts.

    The wrapped Runnable is given this value too, so that it sees exactly what was judged.
    """
    first, *others = parts
    if others and all(isinstance(part, AIMessageChunk) for part in parts):
        # All at once: one by one, each sum reads the arguments of all calls so far anew.
        with suppress(TypeError):
            return cast("T", cast("AIMessageChunk", first) + others)
    return reduce(_added, parts)


def _added(whole: T, part: T) -> T:
    if not hasattr(whole, "__add__"):
        return part
    try:
        added: T = whole + part
    except TypeError:
        return part
    return added


@asynccontextmanager
async def closing(chunks: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Close an async stream on exit if it can be closed: a reader that stops early must stop the model behind.

    Cancellation: closes, then passes.
    """
    try:
        yield chunks
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()
