"""Streams that are read ahead: whatever ends the source, their reader hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from langchain_core.runnables import Runnable, RunnableGenerator

from guardrail_plugin.runnables import guard
from guardrail_plugin.runnables.ahead import READ_AHEAD, Ahead, AsyncAhead, beside
from guardrail_plugin.runnables.gate import Gate
from guardrail_plugin.testing import allow_all

WAIT_S = 20.0


@pytest.mark.parametrize("rails", [("input",), ("input", "output")])
async def test_a_cancellation_inside_the_chain_reaches_the_reader(rails: Any) -> None:
    async def talk(_: AsyncIterator[str]) -> AsyncIterator[str]:
        yield "A word. "
        other = asyncio.ensure_future(asyncio.Event().wait())
        other.cancel()
        await other

    words: Runnable[Any, str] = RunnableGenerator(talk)
    stream = guard(words, guardian=allow_all(), rails=rails, overlap=True, output_type=str).astream("hi")

    async def read() -> None:
        async for _ in stream:
            pass

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(read(), WAIT_S)


async def test_a_cancelled_reading_task_ends_though_nobody_takes_its_chunks() -> None:
    full = asyncio.Event()

    async def numbers() -> AsyncIterator[int]:
        for number in range(READ_AHEAD + 1):
            if number == READ_AHEAD:
                full.set()
            yield number

    ahead = AsyncAhead(numbers(), Gate())
    await asyncio.wait_for(full.wait(), WAIT_S)
    [reading] = asyncio.all_tasks() - {asyncio.current_task()}
    reading.cancel()
    await asyncio.wait_for(asyncio.wait([reading]), WAIT_S)
    assert [await anext(ahead) for _ in range(READ_AHEAD)] == list(range(READ_AHEAD))
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(anext(ahead), WAIT_S)
    with pytest.raises(StopAsyncIteration):
        await anext(ahead)


class Stuck(Iterator[int]):
    """A source that cannot be closed."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __next__(self) -> int:
        raise self._error

    def close(self) -> None:
        raise OSError("stuck")


@pytest.mark.parametrize("error", [StopIteration(), ValueError("lost")], ids=repr)
def test_a_source_that_cannot_be_closed_is_an_error_to_the_reader(error: Exception) -> None:
    ahead = Ahead(lambda: Stuck(error), Gate())
    with pytest.raises(OSError, match="stuck"):
        beside(lambda: next(ahead), Gate()).result(WAIT_S)
