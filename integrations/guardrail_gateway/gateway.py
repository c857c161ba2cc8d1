"""What all endpoints share, and what each needs of the request's surroundings."""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio.to_thread
from starlette.requests import Request

from guardrail_fastapi import GuardrailService
from guardrail_gateway.bodies import JsonObject, parse
from guardrail_gateway.desk import Desk
from guardrail_gateway.hosts import Hosts
from guardrail_gateway.limits import Limits
from guardrail_gateway.notes import note_of
from guardrail_gateway.problems import Problem
from guardrail_gateway.settings import GatewaySettings
from guardrail_gateway.upstream import Upstream, UpstreamError
from guardrail_plugin import GuardrailError
from guardrail_plugin.flow import Allowed
from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.observe.prometheus import PrometheusMetrics

LARGE_BYTES = 65_536
"""Bodies from this size on are parsed and read in a thread: the event loop serves others meanwhile."""

_FORWARDED = ("openai-organization", "openai-project", "openai-beta", "traceparent", "tracestate")
_OWN_TROUBLE = frozenset({401, 403})


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts of a running gateway. Pages find it under ``request.state.gateway``.

    Attributes:
        metrics: what ``/metrics`` shows; its ``registry`` takes more.
        recall: judges what requests repeat, answers included; ``None``: the service's guardian does.
    """

    settings: GatewaySettings
    service: GuardrailService
    upstream: Upstream
    limits: Limits = field(repr=False)
    hosts: Hosts = field(repr=False)
    metrics: PrometheusMetrics = field(repr=False)
    recall: GuardianProtocol | None = field(default=None, repr=False)


def gateway_of(request: Request) -> Gateway:
    """Return the gateway that serves a request."""
    gateway = request.scope["state"]["gateway"]
    if not isinstance(gateway, Gateway):
        raise AssertionError("the application's lifespan has not run")
    return gateway


def desk_of(request: Request, *, operation: str) -> Desk:
    """Return the rails of a request, and note what it is about."""
    gateway, note = gateway_of(request), note_of(request)
    note.operation, note.provider = operation, gateway.upstream.provider
    return Desk(gateway.service, gateway.settings, note, recall=gateway.recall)


async def body_of(request: Request) -> JsonObject:
    """Return a request's JSON object.

    Raises:
        Problem: 400 it is none, 415 it does not say that it is one.
    """
    # Also keeps web pages out: they cannot send this type elsewhere without asking first (CORS).
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "unsupported_media_type", "Send the body with content-type application/json.")
    raw = await request.body()
    return parse(raw) if len(raw) < LARGE_BYTES else await anyio.to_thread.run_sync(parse, raw)


def forwarded(request: Request) -> dict[str, str]:
    """Return the headers that the upstream gets: few, and the client's key only where the gateway has none."""
    given = request.headers
    headers = {name: given[name] for name in _FORWARDED if name in given and given[name].isascii()}
    headers["x-request-id"] = note_of(request).request_id
    settings = gateway_of(request).settings
    if not settings.keys and settings.upstream_key is None and given.get("authorization", "").isascii():
        headers |= {"authorization": given["authorization"]} if "authorization" in given else {}
    return headers


async def as_problem(error: UpstreamError | Problem | GuardrailError, desk: Desk) -> Problem:
    """Return what a client is told of an error.

    The upstream's own message is text like any other: it is judged before it leaves. What does not pass is left out.

    Cancellation: passes to the guardian.
    """
    if not isinstance(error, UpstreamError):
        return error if isinstance(error, Problem) else Problem.of(error)
    status, said = error.status, error.said
    if status in _OWN_TROUBLE and desk.settings.upstream_key is not None:
        # The gateway's key, not the client's, was refused.
        return Problem(502, "upstream_refused_key", "The model behind the gateway refused the gateway's key.")
    if said and "output" in desk.settings.rails:
        try:
            [outcome] = await desk.answers([said])
            said = said if isinstance(outcome, Allowed) else ""
        except Problem:
            said = ""
    message = said or f"The model behind the gateway did not answer ({status} {error.code})."
    headers = {name: value for name, value in error.headers.items() if name == "retry-after"}
    return Problem(status, error.code, message, param=error.param or None, headers=headers)
