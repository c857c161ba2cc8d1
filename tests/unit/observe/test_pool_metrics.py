"""A pool's counters in Prometheus and OpenTelemetry: all of them, as ``stats()`` has them, and no tenant's name."""

from __future__ import annotations

import pytest

from guardrail_plugin.observe.pool_metrics import meter_pool, readings
from guardrail_plugin.pool import Distribution, InferencePool, ScoreRequest, on_behalf_of
from guardrail_plugin.testing.replicas import Hold, ScriptedReplica

pytest.importorskip("prometheus_client")
pytest.importorskip("opentelemetry.sdk")

WAIT_S = 20.0
SECRET = "key-of-a-customer"


def used_pool(pool: InferencePool) -> None:
    """Three requests of which two are one, and one that waits behind them."""
    hold = Hold()
    pool.register("m", ScriptedReplica(on_call=hold).factory)
    with on_behalf_of(SECRET):
        first = pool.submit(ScoreRequest("m", (1,), (1, 2)))
        assert hold.entered.wait(WAIT_S)
        rest = pool.submit_many([ScoreRequest("m", ids, (1, 2)) for ids in [(1,), (2, 2)]])
    assert (pool.stats().joined, pool.stats().queued, pool.stats().tenants) == (1, 1, 1)
    hold.release()
    for future in (first, *rest):
        future.result(WAIT_S)


def test_prometheus_shows_what_stats_has() -> None:
    from guardrail_plugin.observe.prometheus import PrometheusMetrics

    metrics = PrometheusMetrics()
    with InferencePool() as pool:
        metrics.watch_pool(pool.stats)
        used_pool(pool)
        text = metrics.render().decode()
    for line in (
        'guardrail_pool_requests_total{ending="completed"} 3.0',
        "guardrail_pool_coalesced_total 1.0",
        "guardrail_pool_tokens_total 3.0",
        "guardrail_pool_joined 0.0",
        "guardrail_pool_wait_seconds_count 2.0",
        'guardrail_pool_batch_size_bucket{le="1.0"} 2.0',
        'guardrail_pool_replicas{model="m"} 1.0',
    ):
        assert line in text, line
    assert SECRET not in text


def test_opentelemetry_reads_the_same_numbers() -> None:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    with InferencePool() as pool:
        meter_pool(pool.stats, meter_provider=MeterProvider(metric_readers=[reader]))
        used_pool(pool)
        collected = reader.get_metrics_data()
        names = {f"guardrail.pool.{one.name}" for one in readings(pool.stats()) if one.values}
    assert collected is not None
    shown = {
        metric.name: {tuple(point.attributes.values()): point.value for point in metric.data.data_points}
        for resource in collected.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert names <= set(shown)
    assert shown["guardrail.pool.requests"]["completed",] == 3
    assert shown["guardrail.pool.coalesced"][()] == 1
    assert shown["guardrail.pool.wait_seconds.count"][()] == 2


def test_a_distribution_knows_its_quantiles() -> None:
    spread = Distribution(bounds=(1.0, 2.0), counts=(90, 9, 1), total=100.0)
    assert (spread.count, spread.mean) == (100, 1.0)
    assert [spread.quantile(q) for q in (0.5, 0.99, 1.0)] == [1.0, 2.0, float("inf")]
    assert Distribution(bounds=(1.0,), counts=(0, 0), total=0.0).quantile(0.5) == 0.0
