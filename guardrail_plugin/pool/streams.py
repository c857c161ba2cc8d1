"""Token streams. Whoever stops reading (break, close, cancellation, garbage collection) stops the decode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from queue import SimpleQueue

from guardrail_plugin.pool.bridge import adrive, drive, queue_in
from guardrail_plugin.pool.jobqueue import JobQueue
from guardrail_plugin.pool.jobs import GenerateJob


def stream(queue: JobQueue, make: Callable[[], GenerateJob], *, wait: bool) -> Generator[int, None, None]:
    """Submit at the first ``next``, then yield token ids as they are decoded."""
    job = make()  # now, not when the stream was asked for: its time limit starts here
    news: SimpleQueue[int | None] = SimpleQueue()
    job.on_token = news.put
    job.future.add_done_callback(lambda _: news.put(None))
    try:
        drive(queue_in(queue, [job], wait=wait))
        while (token_id := news.get()) is not None:
            yield token_id
        job.future.result()
    finally:
        queue.abandon(job)


async def astream(queue: JobQueue, make: Callable[[], GenerateJob], *, wait: bool) -> AsyncGenerator[int, None]:
    """Like ``stream``. Cancellation: stops the decode."""
    job = make()
    loop = asyncio.get_running_loop()
    news: asyncio.Queue[int | None] = asyncio.Queue()

    def tell(token_id: int | None) -> None:
        try:
            loop.call_soon_threadsafe(news.put_nowait, token_id)
        except RuntimeError:  # the loop is closed: nobody will ever read
            queue.abandon(job)

    job.on_token = tell
    job.future.add_done_callback(lambda _: tell(None))
    try:
        await adrive(queue_in(queue, [job], wait=wait))
        while (token_id := await news.get()) is not None:
            yield token_id
        job.future.result()
    finally:
        queue.abandon(job)
