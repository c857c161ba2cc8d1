"""The Grafana dashboard asks only for metrics and labels that a gateway exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from guardrail_gateway import GatewaySettings, create_app, grafana_dashboard
from guardrail_plugin import Policy
from guardrail_plugin.flow import Allowed, Blocked
from guardrail_plugin.observe import RailEvent, RequestEvent
from guardrail_plugin.observe.prometheus import PrometheusMetrics
from guardrail_plugin.pool import InferencePool, ScoreRequest
from guardrail_plugin.testing import allow_all, verdict
from guardrail_plugin.testing.replicas import ScriptedReplica

SCRAPED = {"job", "instance"}
"""Labels that Prometheus itself adds."""

SELECTOR = re.compile(r"(guardrail_\w+)\{([^}]*)\}")


def exported() -> dict[str, set[str]]:
    """Every sample's name and its labels, of a gateway that has seen something of all kinds."""
    metrics = PrometheusMetrics()
    overloaded = RailEvent(
        rail="input", action="block", policy_version="", on_failure="block", seconds=0.1, error="PoolOverloaded"
    )
    metrics.rail(overloaded)
    for outcome in (Allowed("input", verdict()), Blocked("output", "", verdict(risk=1.0, hazard="S1"))):
        metrics.rail(RailEvent.of(outcome, policy=Policy(), seconds=0.1))
    metrics.request(
        RequestEvent(
            operation="chat", status=500, seconds=1.0, started_at_s=0.0, first_chunk_s=0.1, upstream_s=0.1,
            input_tokens=1, output_tokens=1, error="code",
        )
    )  # fmt: skip
    with InferencePool() as pool:
        metrics.watch_pool(pool.stats)
        pool.register("m", ScriptedReplica().factory)
        pool.submit(ScoreRequest("m", (1,), (1, 2))).result(20.0)
        found = dict(samples(metrics.render().decode()))
    settings = GatewaySettings(upstream="http://127.0.0.1:9/v1")
    with TestClient(create_app(settings, guardian=allow_all()), base_url="http://127.0.0.1") as client:
        return {**dict(samples(client.get("/metrics").text)), **found}


def samples(text: str) -> Iterator[tuple[str, set[str]]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, set(sample.labels)
        if not family.samples:
            yield f"{family.name}{'_total' if family.type == 'counter' else ''}", set()


@pytest.fixture(scope="module")
def names() -> dict[str, set[str]]:
    return exported()


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(grafana_dashboard())["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_every_query_asks_for_what_is_exported(panel: dict[str, Any], names: dict[str, set[str]]) -> None:
    assert panel["targets"]
    for target in panel["targets"]:
        query = target["expr"]
        found = SELECTOR.findall(query)
        assert len(found) == len(re.findall(r"guardrail_\w+", query)) > 0
        for name, selector in found:
            assert name in names, name
            known = names[name] | SCRAPED
            if not name.startswith("guardrail_pool_prefix"):  # none kept: no sample that would show its labels
                asked = set(re.findall(r"(\w+)(?:=~|!=|=)", selector))
                asked |= {word.strip() for group in re.findall(r"by \(([^)]*)\)", query) for word in group.split(",")}
                assert asked <= known, asked - known
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= {
            word.strip() for group in re.findall(r"by \(([^)]*)\)", query) for word in group.split(",")
        }
        assert query.count("(") == query.count(")")


def test_its_shape() -> None:
    told = json.loads(grafana_dashboard())
    ids = [panel["id"] for panel in told["panels"]]
    assert len(ids) == len(set(ids))
    cells = [
        (x, y)
        for panel in told["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)), "panels overlap"
    assert all(x < 24 for x, _ in cells)
    assert [variable["name"] for variable in told["templating"]["list"]] == ["datasource", "job", "instance"]
    assert {panel["datasource"]["uid"] for panel in panels()} == {"${datasource}"}


def test_a_metric_with_another_name_would_be_noticed(names: dict[str, set[str]]) -> None:
    assert "guardrail_verdicts_total" in names
    assert "guardrail_gateway_running" in names
    assert "guardrail_pool_wait_seconds_bucket" in names
    assert "guardrail_verdicts" not in names
