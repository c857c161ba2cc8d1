"""``/v1/models``, ``/healthz``, ``/readyz``, ``/metrics``."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from guardrail_gateway.gateway import as_problem, desk_of, forwarded, gateway_of
from guardrail_gateway.upstream import UpstreamError
from guardrail_plugin.observe.prometheus import CONTENT_TYPE


async def models(request: Request) -> Response:
    """List the upstream's models."""
    desk = desk_of(request, operation="models")
    try:
        reply = await gateway_of(request).upstream.models(forwarded(request))
    except UpstreamError as error:
        raise await as_problem(error, desk) from None
    return JSONResponse(reply.body)


async def healthz(request: Request) -> Response:
    """Tell that the process serves."""
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Tell whether verdicts can be had (200) or not (503), and which policy is in force."""
    service = gateway_of(request).service
    unready, state = service.unready(), service.source.state
    told = {
        "ready": unready is None,
        "reason": unready,
        "guardian": service.guardian.id,
        "policy": {
            "version": state.policy.version,
            "sha256": state.sha256,
            "reloads": state.reloads,
            "current": state.error is None,
        },
    }
    return JSONResponse(told, status_code=200 if unready is None else 503)


async def metrics(request: Request) -> Response:
    """Show the metrics. Behind the keys: they name callers."""
    return Response(gateway_of(request).metrics.render(), headers={"content-type": CONTENT_TYPE})
