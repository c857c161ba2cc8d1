"""``Depends(guardrail)``: the service as one request uses it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import HTTPException
from fastapi.exceptions import ResponseValidationError
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.utils import Input, Output
from starlette.requests import Request
from starlette.responses import Response

from guardrail_fastapi.connection import STATUS_CLIENT_GONE, ClientGone, Receive, while_connected
from guardrail_fastapi.errors import http_error
from guardrail_fastapi.service import GuardrailService
from guardrail_fastapi.sse import SseResponse, text_events
from guardrail_plugin import Check, ConfigError, GuardedRunnable, GuardrailError, Policy, Verdict, guard
from guardrail_plugin.core.verdict import Rail
from guardrail_plugin.observe import ObserverCallback

logger = logging.getLogger("guardrail_plugin.service")

T = TypeVar("T")

_END_IN_TEXT = "a chain that ends in a chat model returns a message; end it in StrOutputParser()"


class Guardrail:
    """The guardian, the pool and the policy, bound to one request.

    The policy is the one in force when the request came. All methods stop, and withdraw their work from the pool, when
    the client leaves. Where no verdict can be had, ``on_failure="block"`` means an HTTP error here: 429 with
    ``Retry-After`` when the pool is overloaded, else 503.
    """

    def __init__(self, *, service: GuardrailService, receive: Receive) -> None:
        self.service = service
        self.policy = service.policy
        self._receive = receive

    async def check(self, text: str | Check, *, rail: Rail = "input") -> Verdict:
        """Judge one text; what to do about it is up to you (``rail.policy.action(verdict)`` tells).

        Raises:
            InputError: there is no text in it.
            GuardianError, PoolError: no verdict could be had.
        """
        check = text if isinstance(text, Check) else Check(text, rail=rail)
        guardian = self.service.guardian
        [outcome] = await self._run(guardian.acheck_many([check], timeout_s=self.policy.timeout_s))
        if isinstance(outcome, GuardrailError):
            raise outcome
        return outcome

    def guard(
        self, chain: Runnable[Input, Output] | Callable[[Input], Output], **settings: Any
    ) -> GuardedRunnable[Input, Output]:
        """Return the chain behind rails, with this request's policy. Settings as ``guardrail_plugin.guard``."""
        return guard(chain, guardian=self.service.guardian, policy=_closed(self.policy), **settings)

    async def reply(
        self,
        chain: Runnable[Input, Output] | Callable[[Input], Output],
        value: Input,
        *,
        config: RunnableConfig | None = None,
        **settings: Any,
    ) -> Output:
        """Run a guarded chain on one input: its answer, or a safeguard response.

        Raises:
            GuardrailError: no verdict could be had, or the policy says ``on_block="raise"``.
        """
        return await self._run(self.guard(chain, **settings).ainvoke(value, self._config(config)))

    async def stream(
        self,
        chain: Runnable[Input, Output] | Callable[[Input], Output],
        value: Input,
        *,
        config: RunnableConfig | None = None,
        **settings: Any,
    ) -> AsyncIterator[Output]:
        """Yield a guarded chain's chunks; with ``rails=("input", "output")`` only what has been checked."""
        async for chunk in self.guard(chain, **settings).astream(value, self._config(config)):
            yield chunk

    async def sse(
        self,
        chain: Runnable[Input, Output] | Callable[[Input], Output],
        value: Input,
        *,
        config: RunnableConfig | None = None,
        **settings: Any,
    ) -> Response:
        """Return a guarded chain's stream as server-sent events: ``{"text": ...}``, then ``{"done": true}``.

        What fails before the first chunk is an HTTP error, what fails later an event ``{"error": {...}}``.
        """
        chunks = self.stream(chain, value, config=config, **settings)
        first = await self._run(_first(chunks))
        return SseResponse(text_events(first, chunks))

    async def _run(self, work: Coroutine[object, object, T]) -> T:
        return await while_connected(self._receive, work)

    def _config(self, config: RunnableConfig | None) -> RunnableConfig:
        given = dict(config or {})
        callbacks = given.pop("callbacks", None)
        watch = ObserverCallback(self.service.observers, policy=self.policy)
        if callbacks is not None and not isinstance(callbacks, list):
            raise ConfigError("callbacks must be a list here: the observers are added to it")
        return RunnableConfig(**{**given, "callbacks": [*(callbacks or []), watch]})  # type: ignore[typeddict-item]


async def _first(chunks: AsyncIterator[T]) -> list[T]:
    async for chunk in chunks:
        return [chunk]
    return []


def _closed(policy: Policy) -> Policy:
    """Return the policy with "block unjudged" told as an error: HTTP has statuses for that, and clients retry them."""
    return policy.model_copy(update={"on_failure": "raise"}) if policy.on_failure == "block" else policy


async def guardrail(request: Request) -> AsyncIterator[Guardrail]:
    """Give an endpoint its ``Guardrail``: ``rail: Guardrail = Depends(guardrail)``.

    Errors of this library that leave the endpoint become HTTP errors, as ``http_error`` tells.

    Raises:
        ConfigError: the application has no ``lifespan=guardrail_lifespan(...)``.
    """
    async with as_http_errors():
        yield Guardrail(service=service_of(request.scope), receive=request.receive)


@asynccontextmanager
async def as_http_errors() -> AsyncIterator[None]:
    """Turn errors of this library into ``HTTPException``, and an answer that is not what the endpoint declares, too.

    FastAPI's own error about such an answer quotes it, and servers log its text.
    """
    try:
        yield
    except ResponseValidationError as error:
        kinds = sorted({str(item.get("type")) for item in error.errors()})
        logger.error("an endpoint's answer is not of its declared type (%s): %s", ", ".join(kinds), _END_IN_TEXT)
        detail = {"code": "internal_error", "message": "The answer could not be sent."}
        raise HTTPException(500, detail=detail) from None
    except ClientGone:
        raise HTTPException(STATUS_CLIENT_GONE) from None
    except ConfigError:
        raise  # the developer's mistake: a traceback in the log, 500 for the client
    except GuardrailError as error:
        told = http_error(error)
        detail = {"code": told.code, "message": told.message}
        # From nothing: what a server or a chain said when it failed may quote text, and who reports errors prints it.
        raise HTTPException(told.status, detail=detail, headers=told.headers) from None


def service_of(scope: Any) -> GuardrailService:
    """Return the service that a request's application runs.

    Raises:
        ConfigError: it runs none.
    """
    service = scope.get("state", {}).get("guardrail")
    if not isinstance(service, GuardrailService):
        raise ConfigError("this application runs no guardrail: pass lifespan=guardrail_lifespan(...)")
    return service
