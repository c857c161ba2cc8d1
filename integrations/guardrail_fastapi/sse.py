"""Server-sent events: a response that closes its source, and a chain's chunks as events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping

from langchain_core.messages import BaseMessage
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from guardrail_fastapi.connection import ClientGone, while_connected
from guardrail_fastapi.errors import http_error
from guardrail_plugin import GuardrailError


class SseResponse(Response):
    """Sends what an async iterator of bytes yields, for as long as the client listens; then closes the iterator.

    Cancellation: the iterator is closed, then the cancellation passes.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncIterator[bytes], *, headers: Mapping[str, str] | None = None, watch: bool = True
    ) -> None:
        """Build it. ``watch=False``: somebody else cancels this when the client leaves."""
        self.status_code = 200
        self.background = None
        # Proxies that buffer would undo streaming.
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})
        if "content-length" in self.headers:
            del self.headers["content-length"]
        self._events = events
        self._watch = watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        if not self._watch:
            await self._send(send)
            return
        try:
            await while_connected(receive, self._send(send))
        except ClientGone:
            return

    async def _send(self, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for chunk in self._events:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            close = getattr(self._events, "aclose", None)
            if close is not None:
                await close()


def event(data: object) -> bytes:
    """Return one event that carries JSON."""
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


async def text_events(first: Iterable[object], rest: AsyncIterator[object]) -> AsyncIterator[bytes]:
    """Yield a chain's chunks as events, an error among them as the last one."""
    try:
        for chunk in first:
            yield event(_told(chunk))
        async for chunk in rest:
            yield event(_told(chunk))
        yield event({"done": True})
    except GuardrailError as error:
        told = http_error(error)
        yield event({"error": {"code": told.code, "message": told.message}})
    finally:
        close = getattr(rest, "aclose", None)
        if close is not None:
            await close()


def _told(chunk: object) -> dict[str, object]:
    if not isinstance(chunk, BaseMessage):
        return {"text": chunk if isinstance(chunk, str) else json.loads(json.dumps(chunk, default=str))}
    told: dict[str, object] = {"text": str(chunk.text)}
    if "guardrail" in chunk.response_metadata:
        told["guardrail"] = chunk.response_metadata["guardrail"]
    return told
