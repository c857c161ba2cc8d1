"""A model behind an OpenAI-compatible HTTP API."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.cookiejar import CookieJar, DefaultCookiePolicy

import anyio
import httpx2

from guardrail_gateway.bodies import JsonObject, as_object, dump
from guardrail_gateway.settings import GatewaySettings
from guardrail_gateway.upstream.events import EventDecoder
from guardrail_gateway.upstream.protocol import Endpoint, Reply, UpstreamError

_CONNECT_S = 10.0
_MAX_SAID = 2000
"""Characters of an upstream's error message that are passed on."""

_END_S = 0.1
"""How long after ``[DONE]`` the connection's end is waited for: a connection that has ended can be used again."""

_WORD = re.compile(r"[\w.\-\[\]]{1,64}", re.ASCII)

_PASSED_HEADERS = ("retry-after", "openai-processing-ms", "openai-version", "x-request-id")
_PASSED_PREFIX = "x-ratelimit-"

_LAST_EVENTS = frozenset({"response.completed", "response.incomplete", "response.failed"})


class HttpUpstream:
    """Calls the API. One connection pool; nothing is retried here, since a retry is the client's to decide."""

    provider = "openai"

    def __init__(self, settings: GatewaySettings, *, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        """Build it; connections are opened when needed."""
        if settings.upstream is None:
            raise AssertionError("there is no upstream")
        self._max_bytes = settings.max_answer_bytes
        self._key = settings.upstream_key
        self._base = settings.upstream.rstrip("/")
        limits = httpx2.Limits(
            max_connections=settings.max_connections, max_keepalive_connections=settings.max_connections
        )
        timeout = httpx2.Timeout(settings.upstream_timeout_s, connect=min(_CONNECT_S, settings.upstream_timeout_s))
        # trust_env=False: a proxy in the environment must not see the requests unless someone asked for it.
        # No cookies: one caller's session must not go out with another's request.
        none = CookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
        self._client = httpx2.AsyncClient(
            limits=limits, timeout=timeout, trust_env=False, transport=transport, cookies=none
        )

    async def ask(self, endpoint: Endpoint, body: JsonObject, headers: Mapping[str, str]) -> Reply:
        """Return the whole answer. Cancellation: the connection is closed."""
        response = await self._send("POST", endpoint, headers, body)
        try:
            answer = _object(await self._read(response))
            _checked(answer)
            return Reply(answer, _passed(response.headers))
        finally:
            await response.aclose()

    async def open(self, endpoint: Endpoint, body: JsonObject, headers: Mapping[str, str]) -> HttpStream:
        """Begin a streamed answer. Cancellation: the connection is closed."""
        response = await self._send("POST", endpoint, headers, body)
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            await response.aclose()
            raise UpstreamError(502, "upstream_no_stream")
        return HttpStream(response, max_bytes=self._max_bytes)

    async def models(self, headers: Mapping[str, str]) -> Reply:
        """Return the list of models."""
        response = await self._send("GET", "models", headers)
        try:
            return Reply(_object(await self._read(response)), _passed(response.headers))
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def _send(
        self, method: str, path: str, headers: Mapping[str, str], body: JsonObject | None = None
    ) -> httpx2.Response:
        sent = {**headers, "accept-encoding": "identity"}
        if self._key is not None:
            sent["authorization"] = f"Bearer {self._key}"
        content = None if body is None else dump(body)
        if content is not None:
            sent["content-type"] = "application/json"
        request = self._client.build_request(method, f"{self._base}/{path}", headers=sent, content=content)
        with _as_upstream_errors():
            response = await self._client.send(request, stream=True)
        if response.status_code == 200:
            return response
        try:
            raise _told(response, await self._read(response))
        finally:
            await response.aclose()

    async def _read(self, response: httpx2.Response) -> bytes:
        content = bytearray()
        with _as_upstream_errors():
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > self._max_bytes:
                    raise UpstreamError(502, "upstream_answer_too_large")
        return bytes(content)


class HttpStream:
    """The events of one streamed answer."""

    def __init__(self, response: httpx2.Response, *, max_bytes: int) -> None:
        self.headers: Mapping[str, str] = _passed(response.headers)
        self._response = response
        self._decoder = EventDecoder(max_bytes=max_bytes)
        self._events = self._read()

    def __aiter__(self) -> HttpStream:
        return self

    async def __anext__(self) -> JsonObject:
        """Return the next event. Raises UpstreamError where the answer breaks off, also if nobody says so."""
        return await self._events.__anext__()

    async def _read(self) -> AsyncGenerator[JsonObject, None]:
        complete = False
        pieces = self._response.aiter_bytes()
        with _as_upstream_errors():
            async for piece in pieces:
                for event in self._decoder.feed(piece):
                    complete = _checked(event) or complete
                    yield event
                if self._decoder.done:
                    with anyio.move_on_after(_END_S), suppress(httpx2.HTTPError):
                        async for _ in pieces:
                            pass
                    return
        for event in self._decoder.end():
            complete = _checked(event) or complete
            yield event
        if not complete and not self._decoder.done:
            raise UpstreamError(502, "upstream_broke_off")

    async def aclose(self) -> None:
        """Close the connection, or give it back where the answer was read to its end."""
        await self._events.aclose()
        await self._response.aclose()


def _checked(event: JsonObject) -> bool:
    """Return whether an event is a stream's last.

    Raises:
        UpstreamError: the event tells of an error.
    """
    # The Responses API, SGLang and older vLLM tell errors flat: {"type": "error", "code", "message"}.
    flat = event.get("type") == "error" or event.get("object") == "error"
    if (flat or event.get("error")) and not event.get("choices") and not _is_response(event):
        raise _of(_error_in(event), 502, {})
    if event.get("type") in _LAST_EVENTS:
        return True
    choices = event.get("choices")
    return isinstance(choices, list) and any(as_object(choice).get("finish_reason") for choice in choices)


@contextmanager
def _as_upstream_errors() -> Iterator[None]:
    try:
        yield
    except httpx2.TimeoutException:
        raise UpstreamError(504, "upstream_timeout") from None
    except httpx2.HTTPError:
        raise UpstreamError(502, "upstream_unreachable") from None


def _told(response: httpx2.Response, content: bytes) -> UpstreamError:
    status = response.status_code if response.status_code >= 400 else 502
    try:
        error = _error_in(as_object(json.loads(content)))
    except (ValueError, RecursionError):
        error = {}
    return _of(error, status, _passed(response.headers))


def _is_response(event: Mapping[str, object]) -> bool:
    """Tell an answer of the Responses API, which tells its own failure under the same name."""
    return event.get("object") == "response"


def _error_in(told: Mapping[str, object]) -> Mapping[str, object]:
    """Return the error that a server tells of: nested, flat, or as a text alone."""
    given = told.get("error") or told
    return {"message": given} if isinstance(given, str) else as_object(given)


def _of(error: Mapping[str, object], status: int, headers: Mapping[str, str]) -> UpstreamError:
    said = error.get("message") or error.get("detail")
    return UpstreamError(
        status,
        _word(error.get("code")) or "upstream_error",
        kind=_word(error.get("type")),
        param=_word(error.get("param")),
        said=said[:_MAX_SAID] if isinstance(said, str) else "",
        headers=headers,
    )


def _word(value: object) -> str:
    return value if isinstance(value, str) and _WORD.fullmatch(value) else ""


def _passed(headers: httpx2.Headers) -> dict[str, str]:
    names = (name for name in headers if name in _PASSED_HEADERS or name.startswith(_PASSED_PREFIX))
    return {("x-upstream-request-id" if name == "x-request-id" else name): headers[name] for name in names}


def _object(content: bytes) -> JsonObject:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        raise UpstreamError(502, "upstream_invalid_json") from None
    if not isinstance(parsed, dict):
        raise UpstreamError(502, "upstream_invalid_json")
    return parsed
