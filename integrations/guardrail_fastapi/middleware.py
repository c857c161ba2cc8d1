"""An input rail in front of endpoints that know nothing of it: JSON chat bodies are judged before they are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, TypeAlias, get_args

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from guardrail_fastapi.connection import ClientGone, while_connected
from guardrail_fastapi.dependency import service_of
from guardrail_fastapi.errors import HttpError, http_error
from guardrail_plugin import ConfigError, InputError
from guardrail_plugin.core.policy import OnFailure
from guardrail_plugin.flow import Allowed, Blocked, Edited, Failed, Outcome, describe, input_rail, run_async
from guardrail_plugin.observe import RailEvent
from guardrail_plugin.runnables.construction import check_word
from guardrail_plugin.runnables.input_keys import InputKey
from guardrail_plugin.runnables.views import read_turn

Blocker: TypeAlias = Callable[[Blocked, dict[str, Any]], Response]
"""From a block and the request's body to what the client gets."""

TOO_LARGE = HttpError(413, "body_too_large", "The request body is too large.")
_MAX_DEPTH = 8
"""Of the body, in which messages are looked for."""

NO_JSON = HttpError(400, "invalid_json", "The request body is not valid JSON.")


def blocked_json(outcome: Blocked, body: dict[str, Any]) -> Response:
    """Answer a blocked body: the safeguard response as a message, and the verdict beside it."""
    fields = describe(outcome, policy_version="")
    message = {"role": "assistant", "content": outcome.response}
    return JSONResponse({"message": message, "guardrail": {**fields, "blocked": True}})


class GuardrailMiddleware:
    """Judges the JSON bodies of POST requests to some paths; what is blocked never reaches the application.

    ``app.add_middleware(GuardrailMiddleware, paths=["/chat"])``, in an application with ``guardrail_lifespan``.

    Args:
        paths: exact paths whose bodies are judged, as the application's router sees them, or with a prefix before.
        input_key: where the user's text or messages are in a body; as ``guard(input_key=...)``.
        on_block: makes the answer to a blocked body, in the application's own format.
        max_body_bytes: larger bodies are refused (413).
        on_uncheckable: what happens to a body without text, and to images and files beside text.

    Does not: check answers, or follow edits of ``on_escalate``; use the dependency for these.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        paths: Sequence[str],
        input_key: InputKey | None = None,
        on_block: Blocker = blocked_json,
        max_body_bytes: int = 1_048_576,
        on_uncheckable: OnFailure = "block",
    ) -> None:
        if isinstance(paths, str) or not paths:
            raise ConfigError(f"paths must be a list of paths, got {paths!r}")
        if max_body_bytes < 1:
            raise ConfigError(f"max_body_bytes must be 1 or more, got {max_body_bytes}")
        check_word("on_uncheckable", on_uncheckable, get_args(OnFailure))
        self._app = app
        self._paths = frozenset(paths)
        self._input_key = input_key
        self._on_block = on_block
        self._max_body_bytes = max_body_bytes
        self._on_uncheckable = on_uncheckable

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge, then pass on or answer. Cancellation: passes to the guardian, which withdraws the work."""
        if scope["type"] != "http" or scope["method"] != "POST" or self._paths.isdisjoint(_paths_of(scope)):
            await self._app(scope, receive, send)
            return
        raw = await self._body(Request(scope, receive))
        answer = _refused(TOO_LARGE) if raw is None else await self._judged(scope, receive, raw)
        if answer is not None:
            await answer(scope, receive, send)
        elif raw is not None:
            await self._app(scope, _Replay(raw, receive), send)

    async def _body(self, request: Request) -> bytes | None:
        raw = bytearray()
        async for part in request.stream():
            raw += part
            if len(raw) > self._max_body_bytes:
                return None
        return bytes(raw)

    async def _judged(self, scope: Scope, receive: Receive, raw: bytes) -> Response | None:
        """Return what answers the request; ``None``: it goes on."""
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):
            return _refused(NO_JSON)
        try:
            outcome = await while_connected(receive, self._decide(scope, body))
        except ClientGone:
            return Response(status_code=499)
        except InputError as error:
            return _refused(http_error(error))
        if isinstance(outcome, Allowed):
            return None
        if isinstance(outcome, Failed):
            return _refused(http_error(outcome.error))
        if isinstance(outcome, Edited):
            raise AssertionError("nobody was asked")
        if outcome.error is not None and not isinstance(outcome.error, InputError):
            return _refused(http_error(outcome.error))
        return self._on_block(outcome, body if isinstance(body, dict) else {})

    async def _decide(self, scope: Scope, body: object) -> Outcome:
        service = service_of(scope)
        policy, started = service.policy, monotonic()
        _refuse_two_readings(body)
        turn = read_turn(body, input_key=self._input_key)
        flow = input_rail(turn.subject, beside=turn.beside, policy=policy, on_uncheckable=self._on_uncheckable)
        outcome = await run_async(flow, service.guardian)
        service.observers.rail(RailEvent.of(outcome, policy=policy, seconds=monotonic() - started))
        return outcome


def _paths_of(scope: Scope) -> tuple[str, str]:
    """Return the path as it was asked for, and as the router sees it: below a proxy's prefix, or a mount."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path, path[len(root) :] if root and path.startswith(f"{root}/") else path


class _Replay:
    """Gives an application the body that has been read already, then the connection's own messages."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


def _refuse_two_readings(value: object, depth: int = _MAX_DEPTH) -> None:
    """Refuse messages in which LangChain reads another text than an application that reads their content.

    Raises:
        InputError: there is one: LangChain's own wire format, or one that removes another message.
    """
    if isinstance(value, dict):
        if {"lc", "kwargs"} <= value.keys() or (
            value.get("role", value.get("type")) == "remove" and "content" in value
        ):
            raise InputError("a message is in a form that only LangChain reads; send role and content")
        value = list(value.values())
    if isinstance(value, list) and depth:
        for inner in value:
            _refuse_two_readings(inner, depth - 1)


def _refused(told: HttpError) -> Response:
    detail = {"code": told.code, "message": told.message}
    return JSONResponse({"detail": detail}, status_code=told.status, headers=told.headers)
