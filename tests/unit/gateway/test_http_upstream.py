"""What servers and proxies do that the API does not tell of: cookies, connections that break off late, flat errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from guardrail_gateway import GatewaySettings
from guardrail_gateway.upstream import UpstreamError
from guardrail_gateway.upstream.http import HttpUpstream

CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"Hi."},"finish_reason":"stop"}]}\n\n'


def upstream(answer: Any) -> HttpUpstream:
    return HttpUpstream(GatewaySettings(upstream="http://127.0.0.1:9/v1"), transport=httpx2.MockTransport(answer))


async def test_a_cookie_stays_with_nobody() -> None:
    seen: list[str | None] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.headers.get("cookie"))
        return httpx2.Response(200, json={"choices": []}, headers={"set-cookie": "session=alice; Path=/"})

    behind = upstream(answer)
    for caller in ("alice", "bob"):
        await behind.ask("chat/completions", {}, {"authorization": f"Bearer {caller}"})
    assert seen == [None, None]


class Abrupt(httpx2.AsyncByteStream):
    """Ends without the end of a chunked body."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece
        raise httpx2.RemoteProtocolError("incomplete chunked read")


@pytest.mark.parametrize(("pieces", "whole"), [((CHUNK, b"data: [DONE]\n\n"), True), ((CHUNK,), False)])
async def test_what_breaks_off_after_its_end_is_whole(pieces: tuple[bytes, ...], whole: bool) -> None:
    behind = upstream(
        lambda _: httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Abrupt(*pieces))
    )
    stream = await behind.open("chat/completions", {}, {})
    if whole:
        assert len([event async for event in stream]) == 1
    else:
        with pytest.raises(UpstreamError):
            [event async for event in stream]


ERRORS = [
    {"error": {"message": "Too long by far.", "code": "too_long"}},
    {"object": "error", "message": "Too long by far.", "code": 400},
    {"error": "Too long by far."},
    {"choices": [], "error": {"message": "Too long by far."}},
]


@pytest.mark.parametrize("told", [*ERRORS, {"detail": "Too long by far."}])
async def test_every_form_of_an_error_is_read(told: dict[str, object]) -> None:
    with pytest.raises(UpstreamError) as caught:
        await upstream(lambda _: httpx2.Response(400, json=told)).ask("chat/completions", {}, {})
    assert (caught.value.said, caught.value.status) == ("Too long by far.", 400)


@pytest.mark.parametrize("told", ERRORS)
async def test_an_error_that_is_told_as_an_answer_is_an_error(told: dict[str, object]) -> None:
    with pytest.raises(UpstreamError) as caught:
        await upstream(lambda _: httpx2.Response(200, json=told)).ask("chat/completions", {}, {})
    assert (caught.value.said, caught.value.status) == ("Too long by far.", 502)


async def test_a_failed_response_is_an_answer() -> None:
    failed = {"object": "response", "status": "failed", "error": {"code": "server_error", "message": "m"}, "output": []}
    reply = await upstream(lambda _: httpx2.Response(200, json=failed)).ask("responses", {}, {})
    assert reply.body == failed
