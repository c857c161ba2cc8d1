"""Do work only for as long as the client is there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
"""ASGI's channel of a request's messages."""

STATUS_CLIENT_GONE = 499
"""What logs and metrics say of a request whose client left; nobody receives it."""


class ClientGone(Exception):
    """The client has closed its connection, so that nobody would read the answer."""


async def while_connected(receive: Receive, work: Coroutine[object, object, T]) -> T:
    """Await ``work`` beside the client's connection.

    Raises:
        ClientGone: the client left first.

    Cancellation: ``work`` is cancelled and awaited before this returns or raises, whatever ends it.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _left(receive: Receive) -> None:
    # Messages of a body that nobody asked for any more are passed over.
    while (await receive())["type"] != "http.disconnect":
        pass
