"""Pieces of streams: join chunks, make one of a value, close an output's source as soon as its reader goes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import reduce
from typing import TypeVar, cast

from langchain_core.messages import AIMessageChunk

from guardrail_plugin.core.errors import InputError

T = TypeVar("T")


def joined(parts: Sequence[T]) -> T:
    """Join a stream's chunks as LangChain does: added up where they add, else the last one counts.

    The wrapped Runnable is given this value too, so that it sees exactly what was judged.
    """
    chunks = [part for part in parts if isinstance(part, AIMessageChunk)]
    if chunks and len(chunks) == len(parts):
        with suppress(InputError):
            return cast("T", summed(chunks))
    return reduce(_added, parts)


def summed(chunks: Sequence[AIMessageChunk]) -> AIMessageChunk:
    """Join the chunks of an answer, of which nothing may be lost.

    Raises:
        InputError: they do not add up.
    """
    first, *others = chunks
    try:
        # All at once: one by one, each sum reads the arguments of all calls so far anew.
        return first + others if others else first
    except TypeError:
        failed = "the chunks of an answer do not add up to one message"
    raise InputError(failed)  # out here, it does not hold LangChain's error, which may quote them


def once(work: Callable[[], T]) -> Iterator[T]:
    """Yield one value, which is made when it is asked for."""
    yield work()


async def aonce(work: Callable[[], Awaitable[T]]) -> AsyncIterator[T]:
    """Like ``once``. Cancellation: passes to what makes the value."""
    yield await work()


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
