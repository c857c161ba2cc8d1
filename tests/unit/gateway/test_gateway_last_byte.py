"""A request's place and its record end with its last byte: who has that may ask again at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from guardrail_gateway import GatewaySettings, create_app
from guardrail_gateway.gateway import Gateway
from guardrail_gateway.intake import Intake
from guardrail_gateway.notes import SCOPE_KEY
from guardrail_plugin.observe import RailEvent, RequestEvent
from guardrail_plugin.testing import allow_all

START = {"type": "http.response.start", "status": 200, "headers": []}
PIECE = {"type": "http.response.body", "body": b"a word", "more_body": True}
END = {"type": "http.response.body", "body": b""}


class Heard:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.requests: list[RequestEvent] = []

    def rail(self, event: RailEvent) -> None: ...

    def request(self, event: RequestEvent) -> None:
        self.requests.append(event)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def gateway(heard: Heard) -> AsyncIterator[Gateway]:
    settings = GatewaySettings(upstream="http://127.0.0.1:9/v1", max_concurrent_per_key=1)
    app = create_app(settings, guardian=allow_all(), observers=[heard], warm_up=False)
    async with app.router.lifespan_context(app) as state:
        assert isinstance(state, dict)
        yield state["gateway"]


class Visit:
    """One request of a client. ``last``: its last byte came, with this status; ``gone``: the client leaves."""

    def __init__(self, gateway: Gateway, app: ASGIApp) -> None:
        self.last: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.gone = asyncio.Event()
        self._status = 0
        scope: Scope = {
            "type": "http",
            "method": "GET",
            "path": "/page",
            "headers": [(b"host", b"127.0.0.1")],
            "state": {"gateway": gateway},
            "visit": self,
        }
        self.task = asyncio.ensure_future(Intake(app)(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        elif not message.get("more_body", False):
            self.last.set_result(self._status)


def answering(*steps: Message | str) -> ASGIApp:
    """Return an application that sends messages, and whose client leaves at the word, or that fails."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope[SCOPE_KEY].operation = "page"
        for step in steps:
            if step == "leave":
                scope["visit"].gone.set()
                await asyncio.Event().wait()
            elif isinstance(step, str):
                raise ValueError(step)
            else:
                await send(step)

    return app


@pytest.mark.parametrize("steps", [(START, END), (START, PIECE, END)], ids=["whole", "streamed"])
async def test_who_has_the_last_byte_may_ask_again(gateway: Gateway, heard: Heard, steps: tuple[Message, ...]) -> None:
    visits: list[Visit] = []
    told: list[tuple[int, int]] = []
    for _ in range(5):
        visits.append(Visit(gateway, answering(*steps)))
        told.append((await visits[-1].last, len(heard.requests)))
    assert told == [(200, number) for number in range(1, 6)]
    await asyncio.gather(*(visit.task for visit in visits))
    assert gateway.limits.running == 0
    assert len(heard.requests) == 5


@pytest.mark.parametrize(
    ("steps", "status", "error"),
    [
        ((START, END), 200, None),
        ((START, END, "too late"), 200, None),
        ((START, END, "leave"), 200, None),
        ((START, PIECE, "broken"), 200, "internal_error"),
        (("failed",), 500, "internal_error"),
        ((START, PIECE, "leave"), 499, "client_gone"),
        (("leave",), 499, "client_gone"),
    ],
)
async def test_a_place_is_given_back_once_and_a_record_made_once(
    gateway: Gateway, heard: Heard, steps: tuple[Message | str, ...], status: int, error: str | None
) -> None:
    await Visit(gateway, answering(*steps)).task
    assert gateway.limits.running == 0
    [event] = heard.requests
    assert (event.operation, event.status, event.error) == ("page", status, error)
    assert await Visit(gateway, answering(START, END)).last == 200


async def test_a_place_is_kept_until_the_last_byte(gateway: Gateway) -> None:
    first, sent = Visit(gateway, answering(START, PIECE, "leave")), Visit(gateway, answering(START, END))
    assert await sent.last == 429
    await asyncio.gather(first.task, sent.task)
    assert gateway.limits.running == 0
