"""``guardrail_lifespan``: the service as part of an application's life."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeAlias, TypedDict

from guardrail_fastapi.service import GuardrailService, open_service
from guardrail_plugin import InferencePool, Policy
from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.observe import Observer


class State(TypedDict):
    """What the lifespan adds to the state of every request (ASGI's ``scope["state"]``)."""

    guardrail: GuardrailService


Lifespan: TypeAlias = Callable[[object], AbstractAsyncContextManager[State]]


def guardrail_lifespan(
    *,
    policy: Policy | str | Path | None = None,
    guardian: GuardianProtocol | str | Path | None = None,
    pool: InferencePool | None = None,
    watch: bool = True,
    warm_up: bool = True,
    observers: Iterable[Observer] = (),
) -> Lifespan:
    """Return a lifespan that owns one pool, for ``FastAPI(lifespan=...)`` or ``Starlette(lifespan=...)``.

    At the start it opens the pool, loads the guardian, reads the policy and judges one word; while the application
    runs it watches the policy file; at the end it lets the pool finish what is queued. Arguments as ``open_service``.

    Inside a lifespan of your own: ``async with guardrail_lifespan(...)(app) as state: yield {**state, ...}``.
    """

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[State]:
        async with open_service(
            guardian=guardian, policy=policy, pool=pool, watch=watch, warm_up=warm_up, observers=observers
        ) as service:
            yield {"guardrail": service}

    return lifespan
