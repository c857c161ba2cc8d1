"""The line to the fleet, over a handle that fails as told: whatever ends a stream, who reads it hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ray.serve.handle import DeploymentResponseGenerator

from guardrail_plugin.core.errors import GuardrailError, InferenceError, ReplicaDead
from guardrail_plugin.pool import GenerateRequest, ScoreRequest
from guardrail_ray import RayReplica, line

TIMEOUT_S = 30.0  # after which a replica that heard nothing gives up by itself
SECRET = "4711"
REQUEST = GenerateRequest("m", (1, 2), max_new_tokens=4)


class Tokens(DeploymentResponseGenerator):  # type: ignore[misc]
    """A stream that says 7 and then raises."""

    def __init__(self, error: BaseException) -> None:
        self._news: list[int | BaseException] = [7, error]

    async def __anext__(self) -> int:
        news = self._news.pop(0)
        if isinstance(news, BaseException):
            raise news
        return news

    def cancel(self) -> None:
        pass


class Endless(Tokens):
    """A stream that says nothing and waits to be cancelled."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()

    async def __anext__(self) -> int:
        await asyncio.Event().wait()
        raise StopAsyncIteration

    def cancel(self) -> None:
        self.cancelled.set()


class Handle:
    """A handle of Ray Serve whose every call does the same."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self.stream = self.score = self

    def options(self, *, stream: bool) -> Handle:
        return self

    def remote(self, *args: object) -> Any:
        return self._call()


@pytest.fixture
def over(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], Any]], RayReplica]]:
    """Return a replica over a handle whose calls do what the test says."""
    made: list[RayReplica] = []

    def make(call: Callable[[], Any]) -> RayReplica:
        monkeypatch.setattr(line.ray, "is_initialized", lambda: True)
        monkeypatch.setattr(line.serve, "get_deployment_handle", lambda *names: Handle(call))
        made.append(RayReplica(timeout_s=TIMEOUT_S))
        return made[-1]

    yield make
    for replica in made:
        replica.close()


def heard(replica: RayReplica) -> tuple[type[GuardrailError], str]:
    """Return what a stream ends with."""
    decode = replica.start([REQUEST])
    with pytest.raises(GuardrailError) as ended:  # noqa: PT012 - each step may be the last
        while decode.step():
            pass
    return ended.type, str(ended.value)


def failing(error: BaseException) -> Callable[[], Any]:
    def call() -> Any:
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "told", "says"),
    [
        (ValueError(SECRET), InferenceError, "a host of the fleet failed (ValueError)"),
        (line.RayServeException(SECRET), ReplicaDead, "a host of the fleet is gone (RayServeException)"),
        (asyncio.CancelledError(SECRET), ReplicaDead, "a host of the fleet is gone (CancelledError)"),
    ],
)
def test_what_a_call_raises_at_once_is_told(
    over: Callable[..., RayReplica], error: BaseException, told: type[GuardrailError], says: str
) -> None:
    assert heard(over(failing(error))) == (told, says)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (asyncio.CancelledError(), "a host of the fleet is gone (CancelledError)"),
        (StopAsyncIteration(), "a host of the fleet stopped in the middle of a decode"),
    ],
)
def test_a_stream_that_ray_breaks_off_is_told(over: Callable[..., RayReplica], error: BaseException, says: str) -> None:
    assert heard(over(lambda: Tokens(error))) == (ReplicaDead, says)


def test_a_row_that_the_caller_cancels_ends_on_the_host_and_says_nothing(over: Callable[..., RayReplica]) -> None:
    streams: list[Endless] = []

    def call() -> Endless:
        streams.append(Endless())
        return streams[-1]

    replica = over(call)
    decode = replica.start([REQUEST, REQUEST])
    decode.cancel(0)
    assert [token.row for token in decode.step()] == [1], "the other row lives on"
    replica.close()  # waits for all streams to end
    assert all(stream.cancelled.is_set() for stream in streams)


def test_verdicts_that_ray_breaks_off_are_asked_for_again(over: Callable[..., RayReplica]) -> None:
    replica = over(failing(asyncio.CancelledError()))
    with pytest.raises(ReplicaDead, match="is gone"):
        replica.score([ScoreRequest("m", (1,), (2, 3))])
