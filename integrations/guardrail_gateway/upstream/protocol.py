"""What a gateway needs of the model behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from guardrail_gateway.bodies import JsonObject

Endpoint: TypeAlias = Literal["chat/completions", "responses"]


class UpstreamError(Exception):
    """The model behind gave no answer, or stopped in its middle.

    Attributes:
        status: what the client is told: the upstream's own status, 502 broken, 504 silent.
        code: a word for programs.
        said: the upstream's message, which nobody has judged yet. Never part of this error's text.
        headers: of its response, those that a client should see.
    """

    def __init__(
        self,
        status: int,
        code: str,
        *,
        kind: str = "",
        param: str = "",
        said: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"upstream: {status} {code}")
        self.status = status
        self.code = code
        self.kind = kind
        self.param = param
        self.said = said
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    body: JsonObject = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)


class Stream(Protocol):
    """An answer in pieces: an async iterator over the events' JSON. Iterated once; closed by whoever opened it.

    Iterating raises ``UpstreamError`` where the answer breaks off, or ends without its end.
    """

    @property
    def headers(self) -> Mapping[str, str]:
        """Of the upstream's response, those that a client should see."""

    def __aiter__(self) -> AsyncIterator[JsonObject]: ...

    async def __anext__(self) -> JsonObject: ...

    async def aclose(self) -> None:
        """Tell the model to stop. Idempotent."""


class Upstream(Protocol):
    """An OpenAI-compatible model. Safe to share between requests of one event loop.

    Every method raises ``UpstreamError``. Cancellation: the request to the model is closed.
    """

    @property
    def provider(self) -> str:
        """What traces call it (OpenTelemetry's ``gen_ai.provider.name``)."""

    async def ask(self, endpoint: Endpoint, body: JsonObject, headers: Mapping[str, str]) -> Reply:
        """Return the whole answer."""

    async def open(self, endpoint: Endpoint, body: JsonObject, headers: Mapping[str, str]) -> Stream:
        """Begin a streamed answer; returns when the upstream has accepted the request."""

    async def models(self, headers: Mapping[str, str]) -> Reply:
        """Return the list of models."""

    async def aclose(self) -> None:
        """Close all connections."""
