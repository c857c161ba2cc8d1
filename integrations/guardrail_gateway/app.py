"""The gateway as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from guardrail_fastapi import GuardrailService, open_service
from guardrail_gateway.chat import chat
from guardrail_gateway.gateway import Gateway
from guardrail_gateway.hosts import Hosts
from guardrail_gateway.intake import Intake
from guardrail_gateway.limits import Limits
from guardrail_gateway.moderations import moderations
from guardrail_gateway.notes import note_of
from guardrail_gateway.problems import Problem
from guardrail_gateway.responses import responses
from guardrail_gateway.settings import GatewaySettings
from guardrail_gateway.status import healthz, metrics, models, readyz
from guardrail_gateway.upstream import Upstream
from guardrail_plugin import CachedGuardian, ConfigError, Policy
from guardrail_plugin.core.dtype import Dtype
from guardrail_plugin.core.verdict import Rail
from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.observe import Observer
from guardrail_plugin.observe.prometheus import PrometheusMetrics


def create_app(
    settings: GatewaySettings | None = None,
    *,
    guardian: GuardianProtocol | str | Path | None = None,
    policy: Policy | str | Path | None = None,
    upstream: Upstream | None = None,
    devices: Sequence[str] | None = None,
    dtype: Dtype = "auto",
    observers: Iterable[Observer] = (),
    pages: Sequence[BaseRoute] = (),
    warm_up: bool = True,
) -> Starlette:
    """Return the gateway as an application for any ASGI server; ``serve`` runs it on one that is set up for it.

    Args:
        guardian: who judges; or a folder or hub id; ``None``: the embedded one.
        policy: a policy, or the path of a file, which is watched.
        upstream: the model behind; ``None``: what ``settings.upstream`` says.
        devices: of the pool that the guardian and the embedded model run on.
        dtype: number format of a guardian, and of a model to answer, that are loaded here.
        observers: who is told of decisions and requests, besides ``/metrics``.
        pages: more routes, behind the same keys and limits.

    Raises:
        ConfigError: a page takes a path of the gateway's own.
    """
    settings = settings or GatewaySettings()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, object]]:
        metrics = PrometheusMetrics()
        async with open_service(
            guardian=guardian,
            policy=policy,
            devices=devices,
            dtype=dtype,
            observers=(metrics, *observers),
            warm_up=warm_up,
            on_policy=lambda state: metrics.policy(current=state.error is None, reloads=state.reloads),
        ) as opened:
            service = _remembering(opened, settings.cached_verdicts)
            behind = upstream or await _upstream(settings, service, dtype)
            try:
                recall = _recall(service, settings.cached_verdicts)
                yield _state(Gateway(settings, service, behind, Limits(settings), Hosts(settings), metrics, recall))
            finally:
                await behind.aclose()

    return Starlette(
        routes=_routes(pages),
        lifespan=lifespan,
        middleware=[*_cors(settings), Middleware(Intake)],
        exception_handlers={Problem: _told, HTTPException: _not_here},
    )


def _remembering(service: GuardrailService, entries: int) -> GuardrailService:
    """Remember verdicts: each request of a conversation repeats the earlier ones."""
    return replace(service, guardian=CachedGuardian(service.guardian, max_entries=entries)) if entries else service


def _recall(service: GuardrailService, entries: int) -> GuardianProtocol | None:
    """Remember what was judged of an agent's steps: apart, so that windows of streamed answers push nothing out."""
    rails: tuple[Rail, ...] = ("output", "tool_call")
    return CachedGuardian(service.guardian, max_entries=entries, rails=rails) if entries else None


def _state(gateway: Gateway) -> dict[str, object]:
    metrics, pool = gateway.metrics, gateway.service.pool
    if pool is not None:
        metrics.watch_pool(pool.stats)
    limits = gateway.limits
    metrics.gauge("guardrail_gateway_running", "Requests in progress.", lambda: limits.running)
    metrics.count("guardrail_gateway_refused", "Requests refused by limits.", lambda: limits.refused)
    return {"gateway": gateway, "guardrail": gateway.service}


def _routes(pages: Sequence[BaseRoute]) -> list[BaseRoute]:
    own = [
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/responses", responses, methods=["POST"]),
        Route("/v1/moderations", moderations, methods=["POST"]),
        Route("/v1/models", models, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
    ]
    taken = {route.path for route in own}
    for page in pages:
        if isinstance(page, Route) and page.path in taken:
            raise ConfigError(f"{page.path} is the gateway's own")
    return [*own, *pages]


async def _upstream(settings: GatewaySettings, service: GuardrailService, dtype: Dtype) -> Upstream:
    if settings.upstream is not None:
        from guardrail_gateway.upstream.http import HttpUpstream

        return HttpUpstream(settings)
    import anyio.to_thread

    from guardrail_gateway.upstream.embedded import EmbeddedUpstream
    from guardrail_plugin.pool.default import default_pool

    open_ = partial(EmbeddedUpstream, service.pool or default_pool(), dtype=dtype)
    return await anyio.to_thread.run_sync(open_)


def _cors(settings: GatewaySettings) -> list[Middleware]:
    if not settings.cors_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # official clients send a dozen of their own; whom it lets in are the origins
            expose_headers=["x-guardrail-verdict", "x-request-id", "retry-after"],
        )
    ]


async def _told(request: Request, error: Exception) -> Response:
    if not isinstance(error, Problem):
        raise error
    note_of(request).error = error.code
    return error.response()


async def _not_here(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    code, message = {
        404: ("not_found", "The gateway has no such endpoint."),
        405: ("method_not_allowed", "The endpoint has no such method."),
    }.get(status, ("http_error", "The request could not be served."))
    headers = error.headers if isinstance(error, HTTPException) else None
    return await _told(request, Problem(status, code, message, headers=headers))
