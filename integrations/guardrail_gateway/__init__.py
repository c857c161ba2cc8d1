"""An OpenAI-compatible gateway with rails: point any OpenAI client at it.

guardrail serve --upstream http://127.0.0.1:8000/v1 --policy policy.toml
"""

from __future__ import annotations

from guardrail_plugin import MissingDependencyError

try:
    from guardrail_gateway.app import create_app
    from guardrail_gateway.dashboards import grafana_dashboard
    from guardrail_gateway.gateway import Gateway
    from guardrail_gateway.playground import Playground
    from guardrail_gateway.problems import Problem
    from guardrail_gateway.server import serve, server_for
    from guardrail_gateway.settings import ApiKey, GatewayRail, GatewaySettings, history_named, rails_named, read_keys
    from guardrail_gateway.upstream import Reply, Stream, Upstream, UpstreamError
except ModuleNotFoundError as error:
    if str(error.name).partition(".")[0] not in ("fastapi", "starlette", "uvicorn", "httptools", "httpx2", "anyio"):
        raise
    raise MissingDependencyError(str(error.name), extra="gateway") from None
except MissingDependencyError as error:  # of what the gateway stands on: its extra brings that, too
    raise MissingDependencyError(error.package, extra="gateway") from None

__all__ = [
    "ApiKey",
    "Gateway",
    "GatewayRail",
    "GatewaySettings",
    "Playground",
    "Problem",
    "Reply",
    "Stream",
    "Upstream",
    "UpstreamError",
    "create_app",
    "grafana_dashboard",
    "history_named",
    "rails_named",
    "read_keys",
    "serve",
    "server_for",
]
