"""Request bodies: read within bounds, and parsed so that nobody behind can read them differently."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, NoReturn, TypeAlias

import anyio

from guardrail_fastapi import ClientGone
from guardrail_gateway.problems import Problem, bad_request

JsonObject: TypeAlias = dict[str, object]

_DRAIN_BYTES = 33_554_432
_DRAIN_S = 2.0
"""A refused upload is read this far, so that the client gets to see the refusal instead of a broken pipe."""

_READ = frozenset(
    {
        "messages", "input", "stream", "n", "model", "tools", "functions", "role", "content", "text", "type",
        "tool_calls", "function_call", "function", "arguments", "name", "output", "instructions", "tool_call_id",
    }
)  # fmt: skip
"""Keys that decide what is judged."""

_JUDGED = ("messages", "input")
_MAX_DEPTH = 16

Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]


async def read_body(receive: Receive, *, max_bytes: int, timeout_s: float, declared: str | None) -> bytes:
    """Read a request's body.

    Raises:
        Problem: 413 it is too large, 408 it does not come.
        ClientGone: the client left.
    """
    if declared is not None and declared.isdecimal() and int(declared) > max_bytes:
        await drain(receive)
        raise _too_large(max_bytes)
    body = bytearray()
    try:
        with anyio.fail_after(timeout_s):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > max_bytes:
                    break
    except TimeoutError:
        raise Problem(408, "request_timeout", "The request body did not come in time.", close=True) from None
    if len(body) > max_bytes:
        await drain(receive)
        raise _too_large(max_bytes)
    return bytes(body)


async def drain(receive: Receive) -> None:
    """Read what a client still sends, within bounds, and forget it."""
    left = _DRAIN_BYTES
    try:
        with anyio.fail_after(_DRAIN_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def parse(body: bytes) -> JsonObject:
    """Parse a JSON object.

    What goes to the upstream is written anew from the result, so that of two equal keys it sees the one that was
    judged. Keys that some parsers take for others (``Messages``) are refused for the same reason.

    Raises:
        Problem: 400, it is no JSON object, or ambiguous.
    """
    try:
        parsed = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Problem(400, "invalid_json", "The request body is not valid JSON.") from None
    if not isinstance(parsed, dict):
        raise Problem(400, "invalid_json", "The request body must be a JSON object.")
    _no_look_alikes(parsed)
    for key in _JUDGED:
        _no_look_alikes_within(parsed.get(key), _MAX_DEPTH)
    return parsed


def dump(value: object) -> bytes:
    """Write JSON, in ASCII: lone surrogates stay what they were."""
    return json.dumps(value, separators=(",", ":")).encode()


def as_object(value: object) -> Mapping[str, object]:
    """Return a JSON object as one, and what is none as an empty one."""
    return value if isinstance(value, dict) else {}


def _no_look_alikes(keys: Iterable[str]) -> None:
    for key in keys:
        if key not in _READ and key.casefold() in _READ:
            raise bad_request(f"A key of the body is spelled almost like {key.casefold()!r}.", code="ambiguous_key")


def _no_look_alikes_within(value: object, depth: int) -> None:
    if depth == 0:
        raise bad_request("The body is nested too deeply.")
    if isinstance(value, dict):
        _no_look_alikes(value)
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            if isinstance(inner, dict | list):
                _no_look_alikes_within(inner, depth - 1)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _too_large(max_bytes: int) -> Problem:
    return Problem(413, "body_too_large", f"The request body is larger than {max_bytes} bytes.", close=True)
