"""What every request passes first: who calls, how much of it, how long; and how it ends, for whoever observes."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable, MutableMapping
from contextlib import ExitStack
from typing import Any

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from guardrail_fastapi import ClientGone, while_connected
from guardrail_gateway.bodies import drain, read_body
from guardrail_gateway.gateway import Gateway
from guardrail_gateway.keys import caller
from guardrail_gateway.notes import SCOPE_KEY, Note
from guardrail_gateway.problems import Problem
from guardrail_plugin import GuardrailError
from guardrail_plugin.pool import on_behalf_of

logger = logging.getLogger("guardrail_gateway")

PLAYGROUND = "/playground"
PLAYGROUND_STYLE = f"{PLAYGROUND}/page.css"
PLAYGROUND_SCRIPT = f"{PLAYGROUND}/page.js"

OPEN_PATHS = frozenset({"/healthz", "/readyz", PLAYGROUND, PLAYGROUND_STYLE, PLAYGROUND_SCRIPT})
"""Answered without a key and without limits: whoever watches the process asks here, and browsers fetch the page's
files, which hold nothing secret, before anybody could type a key."""

_ID = re.compile(r"[\w.\-]{1,64}", re.ASCII)
_PARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Intake:
    """The outermost part of a gateway's application.

    Host and key are looked at before the body is read, and the body is read whole, within bounds, before anything works
    on it. A client that leaves cancels what works for it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request. Cancellation: passes."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await _Visit(self._app, scope, receive, send).serve()


class _Visit:
    """One request."""

    def __init__(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        given, parent = headers.get("x-request-id", ""), headers.get("traceparent", "")
        self._note = Note(
            given if _ID.fullmatch(given) else uuid.uuid4().hex,
            traceparent=parent if _PARENT.fullmatch(parent) else "",
        )
        gateway = scope["state"]["gateway"]
        if not isinstance(gateway, Gateway):
            raise AssertionError("the application's lifespan has not run")
        self._gateway = gateway
        self._headers = headers
        self._scope: MutableMapping[str, Any] = {**scope, SCOPE_KEY: self._note}
        self._app, self._receive, self._send = app, receive, send
        self._begun = False
        # What ends with the last byte, once: whoever has it may ask again before the tasks here have ended.
        self._until_sent = ExitStack()
        self._until_sent.callback(self._report)

    async def serve(self) -> None:
        """Serve it, and tell the observers how it ended."""
        try:
            await self._serve()
        except Problem as problem:
            await self._tell(problem)
        except ClientGone:
            self._note.status, self._note.error = 499, "client_gone"
        except GuardrailError as error:
            # Without its traceback: what it was raised from may quote text.
            logger.error("request %s failed: %s: %s", self._note.request_id, _place(error), error)
            await self._tell(Problem.of(error))
        except Exception as error:
            # The traceback may hold text in its locals' reprs, so only the place is told.
            logger.error("request %s failed: %s", self._note.request_id, _place(error))
            await self._tell(Problem(500, "internal_error", "The gateway failed on this request."))
        except anyio.get_cancelled_exc_class():
            self._note.status, self._note.error = 499, "cancelled"
            raise
        finally:
            self._until_sent.close()

    async def _serve(self) -> None:
        settings = self._gateway.settings
        await self._at_the_door(lambda: self._gateway.hosts.check(self._headers))
        if self._scope["path"] in OPEN_PATHS:
            await self._app(self._scope, self._receive, self._sending)
            return
        await self._at_the_door(self._identify)
        self._until_sent.enter_context(self._gateway.limits.admit(self._note.caller))
        body = b""
        if self._scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            body = await read_body(
                self._receive,
                max_bytes=settings.max_body_bytes,
                timeout_s=settings.body_timeout_s,
                declared=self._headers.get("content-length"),
            )
        # Each key is a tenant of the pool, under its name: what one floods it with does not starve the others.
        with anyio.move_on_after(settings.request_timeout_s) as limit, on_behalf_of(self._note.caller):
            await while_connected(self._receive, self._work(body))
        if limit.cancelled_caught:
            raise Problem(504, "request_timeout", "The request took too long.")

    async def _work(self, body: bytes) -> None:
        await self._app(self._scope, _Replay(body), self._sending)

    def _identify(self) -> None:
        self._note.caller = caller(self._headers.get("authorization", ""), self._gateway.settings.keys)

    async def _at_the_door(self, look: Callable[[], None]) -> None:
        """Turn away who does not pass; what they still send is read, so that they get to see why."""
        try:
            look()
        except Problem:
            if self._headers.get("expect", "").lower() != "100-continue":
                await drain(self._receive)
            raise

    async def _tell(self, problem: Problem) -> None:
        self._note.error = problem.code
        if self._begun:
            # The status has left; the stream ends without its end, which clients notice.
            return
        await problem.response()(self._scope, self._receive, self._sending)

    async def _sending(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun, self._note.status = True, message["status"]
            told = (b"x-request-id", self._note.request_id.encode())
            message = {**message, "headers": [*message.get("headers", ()), told]}
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._until_sent.close()

    def _report(self) -> None:
        if self._note.operation != "other" or self._note.status >= 400:
            self._gateway.service.observers.request(self._note.event())


class _Replay:
    """Gives an endpoint the body that has been read, then nothing: who leaves is somebody else's business."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body

    async def __call__(self) -> Message:
        if self._body is None:
            await anyio.sleep_forever()
        body, self._body = self._body or b"", None
        return {"type": "http.request", "body": body, "more_body": False}


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "?"
    return f"{type(error).__name__} at {where}"
