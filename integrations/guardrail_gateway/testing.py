"""Test doubles: a real server for an application, and a small OpenAI-compatible server that does what it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from guardrail_fastapi import ClientGone, SseResponse, while_connected
from guardrail_gateway.server import server_for
from guardrail_gateway.settings import GatewaySettings

_START_S = 60.0
_STOP_S = 30.0

_OPENING_EVENTS = 4
"""Of a streamed response; a chat completion has one opening chunk."""


@contextmanager
def serving(app: ASGIApp, settings: GatewaySettings | None = None) -> Iterator[str]:
    """Serve an application on a free loopback port, in a thread. Yields its base URL, without ``/v1``.

    Raises:
        RuntimeError: it did not start, or did not stop.
    """
    server = server_for(app, settings or GatewaySettings(port=0))
    failures: list[BaseException] = []

    def run() -> None:
        try:
            server.run()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="server under test", daemon=True)
    thread.start()
    # uvicorn has no event for this; its own tests poll the flag as well.
    ticker = threading.Event()
    for _ in range(int(_START_S / 0.01)):
        if server.started or not thread.is_alive():
            break
        ticker.wait(0.01)
    if not server.started:
        raise RuntimeError("the server did not start") from (failures[0] if failures else None)
    try:
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join(_STOP_S)
        if thread.is_alive():
            raise RuntimeError("the server did not stop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What a scripted upstream answers to one request.

    Attributes:
        deltas: the pieces of the answer, as text or as OpenAI's ``delta`` objects.
        extra: more fields of the answer, or of its first chunk.
        events: of the Responses API, told before the last.
        status, error: an error instead.
        die_after: close the connection after so many chunks; ``hang_after``: say nothing more after these;
            ``tell_after``: send an error event after these; ``end_after``: end without an end after these.
    """

    deltas: Sequence[str | Mapping[str, Any]] = ("Hello. ", "How are you?")
    finish_reason: str = "stop"
    extra: Mapping[str, Any] = field(default_factory=dict)
    events: Sequence[Mapping[str, Any]] = ()
    status: int = 200
    error: Mapping[str, Any] | None = None
    die_after: int | None = None
    hang_after: int | None = None
    tell_after: int | None = None
    end_after: int | None = None


class Died(Exception):
    """A scripted upstream breaks off here."""


class ScriptedUpstream:
    """An OpenAI-compatible server that follows a script. Keeps what it was asked: for tests only.

    Attributes:
        bodies: the request bodies, in order; ``headers``: their headers.
        left: streams that the client closed before their end.
    """

    def __init__(self, script: Script | Callable[[dict[str, Any]], Script] | None = None) -> None:
        self.script: Script | Callable[[dict[str, Any]], Script] = script or Script()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.left = 0
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/responses", self._responses, methods=["POST"]),
                Route("/v1/models", self._models),
            ],
            exception_handlers={ClientDisconnect: _left, ClientGone: _left},
        )

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "scripted", "object": "model", "owned_by": "tests"}]})

    async def _read(self, request: Request) -> tuple[dict[str, Any], Script]:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        return body, self.script(body) if callable(self.script) else self.script

    async def _chat(self, request: Request) -> Response:
        body, script = await self._read(request)
        if script.status != 200:
            return JSONResponse({"error": dict(script.error or {})}, status_code=script.status)
        if not body.get("stream"):
            if script.hang_after is not None:
                await while_connected(request.receive, self._hang())
            if script.die_after is not None:
                raise Died
            return JSONResponse(_completion(script, int(body.get("n") or 1)))
        return SseResponse(self._paced(script, _chunks(script, body)))

    async def _responses(self, request: Request) -> Response:
        from guardrail_gateway.testing_responses import response_events, whole_response

        body, script = await self._read(request)
        if script.status != 200:
            return JSONResponse({"error": dict(script.error or {})}, status_code=script.status)
        if not body.get("stream"):
            if script.hang_after is not None:
                await while_connected(request.receive, self._hang())
            if script.die_after is not None:
                raise Died
            return JSONResponse(whole_response(script))
        return SseResponse(self._paced(script, response_events(script), first=_OPENING_EVENTS, done=False))

    async def _paced(
        self, script: Script, events: Sequence[Mapping[str, Any]], *, first: int = 1, done: bool = True
    ) -> AsyncIterator[bytes]:
        for number, event in enumerate(events, 1 - first):
            if number == script.die_after:
                raise Died
            if number == script.end_after:
                return
            if number == script.hang_after:
                await self._hang()
            if number == script.tell_after:
                told = dict(script.error or {})
                yield _event({"error": told} if done else {"type": "error", **told})
                return
            yield _event(event)
            await anyio.lowlevel.checkpoint()
        if done:
            yield b"data: [DONE]\n\n"

    async def _hang(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self.left += 1


async def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


_SHARED = {"id": "chatcmpl-scripted", "created": 1, "model": "scripted", "system_fingerprint": "fp_1"}


def _delta(piece: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"content": piece} if isinstance(piece, str) else dict(piece)


def _completion(script: Script, choices: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    for piece in map(_delta, script.deltas):
        content = piece.pop("content", None)
        if isinstance(content, str):
            message["content"] = (message["content"] or "") + content
        message.update(piece)
    made = [
        {"index": index, "message": message, "logprobs": None, "finish_reason": script.finish_reason}
        for index in range(choices)
    ]
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    return {**_SHARED, "object": "chat.completion", "choices": made, "usage": usage, **script.extra}


def _chunks(script: Script, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    envelope = {**_SHARED, "object": "chat.completion.chunk"}
    made: list[dict[str, Any]] = []
    for index in range(int(body.get("n") or 1)):
        deltas = [{"role": "assistant", "content": ""}, *map(_delta, script.deltas), {}]
        for number, delta in enumerate(deltas):
            reason = script.finish_reason if number == len(deltas) - 1 else None
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
            made.append({**envelope, "choices": [choice], **(script.extra if number == 0 else {})})
    if (body.get("stream_options") or {}).get("include_usage"):
        usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
        made.append({**envelope, "choices": [], "usage": usage})
    return made


def _event(data: object) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"
