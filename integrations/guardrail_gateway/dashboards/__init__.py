"""Dashboards for what ``/metrics`` shows."""

from __future__ import annotations

from importlib import resources


def grafana_dashboard() -> str:
    """Return the Grafana dashboard as JSON, to import or to provision."""
    return resources.files("guardrail_gateway.dashboards").joinpath("grafana.json").read_text(encoding="utf-8")
