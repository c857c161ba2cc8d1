"""Pieces of streams: join the chunks of an input, close an output's source as soon as its reader goes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

T = TypeVar("T")


def joined(parts: Sequence[T]) -> T:
    """Join a stream's chunks as LangChain does: added up where they add, else the last one counts.

    The wrapped Runnable is given this value too, so that it sees exactly what was judged.
    """
    whole = parts[0]
    for part in parts[1:]:
        try:
            whole = whole + part  # type: ignore[operator]
        except TypeError:
            whole = part
    return whole


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
