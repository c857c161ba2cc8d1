"""Run a call or a stream beside something else, and drop it when it turns out not to be wanted."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextvars import copy_context
from typing import Generic, TypeVar

from guardrail_plugin.runnables.gate import Gate
from guardrail_plugin.runnables.streams import closing

T = TypeVar("T")

READ_AHEAD = 256
"""Chunks that a stream may run ahead of its reader."""


def beside(work: Callable[[], T], gate: Gate) -> Future[T]:
    """Start work in a thread of its own. It cannot be stopped; who does not want its result forgets it."""
    result: Future[T] = Future()

    def run(result: Future[T]) -> None:
        gate.enter()
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)
            del result  # the error's traceback holds this frame: the two would keep each other

    # A daemon: an abandoned call must not keep the process from ending.
    threading.Thread(target=copy_context().run, args=(run, result), name="guardrail-overlap", daemon=True).start()
    return result


class Ahead(Iterator[T]):
    """A stream that is read in a thread of its own, at most ``READ_AHEAD`` chunks ahead.

    ``close`` returns at once; the thread closes the source when the chunk it waits for has come.
    """

    def __init__(self, source: Callable[[], Iterator[T]], gate: Gate) -> None:
        self._source = source
        self._gate = gate
        self._chunks: deque[T] = deque()
        self._changed = threading.Condition()
        self._stopped = self._done = False
        self._error: BaseException | None = None
        threading.Thread(target=copy_context().run, args=(self._read,), name="guardrail-overlap", daemon=True).start()

    def __next__(self) -> T:
        with self._changed:
            self._changed.wait_for(lambda: self._chunks or self._done)
            self._changed.notify_all()
            if self._chunks:
                return self._chunks.popleft()
            if self._error is not None:
                error, self._error = self._error, None
                try:
                    raise error
                finally:
                    del error  # as above
            raise StopIteration

    def close(self) -> None:
        """Read no more. Idempotent."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _read(self) -> None:
        self._gate.enter()
        error: BaseException | None = None
        try:
            source = self._source()
            try:
                for chunk in source:
                    with self._changed:
                        self._changed.wait_for(lambda: len(self._chunks) < READ_AHEAD or self._stopped)
                        if self._stopped:
                            break
                        self._chunks.append(chunk)
                        self._changed.notify_all()
            finally:
                close = getattr(source, "close", None)
                if close is not None:
                    close()
        except BaseException as raised:
            error = raised
        with self._changed:
            self._error, self._done = error, True
            error = None
            self._changed.notify_all()


class AsyncAhead(AsyncIterator[T], Generic[T]):
    """A stream that is read in a task of its own, at most ``READ_AHEAD`` chunks ahead.

    Cancellation: ``aclose`` cancels the task and awaits it, so that nothing is left. One that comes from anywhere else,
    as from a task that the source awaits, is an error like others to the reader.
    """

    def __init__(self, source: AsyncIterator[T], gate: Gate) -> None:
        # Chunks are bounded, and the end is not: a cancelled task must not wait for a reader to take one.
        self._inbox: asyncio.Queue[tuple[T] | BaseException | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(READ_AHEAD)
        self._task = asyncio.create_task(self._read(source, gate))
        self._over = False

    async def __anext__(self) -> T:
        if self._over:
            raise StopAsyncIteration
        item = await self._inbox.get()
        if isinstance(item, tuple):
            self._room.release()
            return item[0]
        self._over = True
        if item is None:
            raise StopAsyncIteration
        raise item

    async def aclose(self) -> None:
        """Cancel and await the task. Idempotent."""
        self._over = True
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self, source: AsyncIterator[T], gate: Gate) -> None:
        gate.enter()
        try:
            async with closing(source) as chunks:
                async for chunk in chunks:
                    await self._room.acquire()
                    self._inbox.put_nowait((chunk,))
        except BaseException as error:
            if not self._over:
                self._inbox.put_nowait(error)
            if isinstance(error, asyncio.CancelledError):
                raise
        else:
            self._inbox.put_nowait(None)
