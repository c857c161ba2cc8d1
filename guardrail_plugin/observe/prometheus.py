"""Prometheus metrics: what the rails decide, what requests cost, and how the pool does. Labels never hold user text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from guardrail_plugin.core.errors import MissingDependencyError
from guardrail_plugin.core.verdict import RAILS
from guardrail_plugin.observe.event import RailEvent, RequestEvent
from guardrail_plugin.observe.pool_metrics import readings, spreads
from guardrail_plugin.pool.stats import PoolStats

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.registry import Collector
except ImportError as error:
    raise MissingDependencyError(error.name or "prometheus_client", extra="observe") from None

if TYPE_CHECKING:
    from prometheus_client.core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_RISK = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_WINDOWS = (1, 2, 3, 4, 6, 8, 16, 32, 64)
_OVERLOADED = "PoolOverloaded"


class PrometheusMetrics:
    """An observer that counts, in a registry of its own or a given one. Safe to share between threads."""

    def __init__(self, *, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._verdicts = self._counter("verdicts", "Rail decisions.", "rail", "hazard", "action")
        self._failures = self._counter("failures", "Decisions without a verdict.", "rail", "error", "on_failure")
        self._overloads = self._counter("overloads", "Checks that a full pool refused.", "rail")
        for rail in RAILS:
            self._overloads.labels(rail)  # from 0 on: a rate does not see the first count of a series
        self._risk = self._histogram("risk", "Risk of judged texts.", "rail", buckets=_RISK)
        self._guardian_s = self._histogram("guardian_seconds", "Until the verdict, queueing included.", "rail")
        self._rail_s = self._histogram("rail_seconds", "Until the decision, safeguard response included.", "rail")
        self._windows = self._histogram("windows", "Windows per verdict.", "rail", buckets=_WINDOWS)
        self._requests = self._counter("requests", "Finished requests.", "operation", "status", "caller")
        self._request_s = self._histogram("request_seconds", "From arrival to the last byte.", "operation")
        self._first_s = self._histogram("first_chunk_seconds", "From arrival to a stream's first byte.", "operation")
        self._upstream_s = self._histogram("upstream_seconds", "From arrival until the model answers.", "operation")
        self._errors = self._counter("errors", "Errors that clients were told.", "operation", "code")
        self._tokens = self._counter("tokens", "Tokens that the model behind reported.", "kind")
        self._policy_ok = Gauge(
            "guardrail_policy_current", "1: the policy file is in force as it is now.", registry=self.registry
        )
        self._policy_loads = Gauge(
            "guardrail_policy_reloads", "Policies that took force while running.", registry=self.registry
        )
        self._policy_ok.set(1)

    def rail(self, event: RailEvent) -> None:
        """Count a decision."""
        hazard = event.hazard if event.harmful and event.hazard else "none"
        self._verdicts.labels(event.rail, hazard, event.action).inc()
        self._rail_s.labels(event.rail).observe(event.seconds)
        if event.error is not None:
            self._failures.labels(event.rail, event.error, event.on_failure).inc()
        if event.error == _OVERLOADED:
            self._overloads.labels(event.rail).inc()
        if event.risk is not None:
            self._risk.labels(event.rail).observe(event.risk)
            self._windows.labels(event.rail).observe(event.windows)
        if event.guardian_seconds is not None:
            self._guardian_s.labels(event.rail).observe(event.guardian_seconds)

    def request(self, event: RequestEvent) -> None:
        """Count a request."""
        self._requests.labels(event.operation, str(event.status), event.caller).inc()
        self._request_s.labels(event.operation).observe(event.seconds)
        if event.first_chunk_s is not None:
            self._first_s.labels(event.operation).observe(event.first_chunk_s)
        if event.upstream_s is not None:
            self._upstream_s.labels(event.operation).observe(event.upstream_s)
        if event.error is not None:
            self._errors.labels(event.operation, event.error).inc()
        for kind, count in (("input", event.input_tokens), ("output", event.output_tokens)):
            if count:
                self._tokens.labels(kind).inc(count)

    def policy(self, *, current: bool, reloads: int) -> None:
        """Note whether the policy file is in force, and how often another one took force."""
        self._policy_ok.set(1 if current else 0)
        self._policy_loads.set(reloads)

    def _counter(self, name: str, told: str, *labels: str) -> Counter:
        return Counter(f"guardrail_{name}", told, labels, registry=self.registry)

    def _histogram(self, name: str, told: str, *labels: str, buckets: Sequence[float] = _SECONDS) -> Histogram:
        return Histogram(f"guardrail_{name}", told, labels, buckets=buckets, registry=self.registry)

    def gauge(self, name: str, told: str, read: Callable[[], float]) -> None:
        """Add a number that is read when somebody asks for the metrics."""
        Gauge(name, told, registry=self.registry).set_function(read)

    def count(self, name: str, told: str, read: Callable[[], float]) -> None:
        """Add a number that only grows, under a name without ``_total``; it is read when somebody asks."""
        self.registry.register(_CountCollector(name, told, read))

    def watch_pool(self, stats: Callable[[], PoolStats]) -> None:
        """Add a pool's counters; they are read when somebody asks for the metrics."""
        self.registry.register(_PoolCollector(stats))

    def render(self) -> bytes:
        """Return the metrics as Prometheus reads them."""
        return generate_latest(self.registry)


class _CountCollector(Collector):
    def __init__(self, name: str, told: str, read: Callable[[], float]) -> None:
        self._name = name
        self._told = told
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """Yield the number of this moment."""
        yield CounterMetricFamily(self._name, self._told, value=self._read())


class _PoolCollector(Collector):
    def __init__(self, stats: Callable[[], PoolStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        """Yield the counters of this moment."""
        now = self._stats()
        for one in readings(now):
            make = GaugeMetricFamily if one.kind == "gauge" else CounterMetricFamily
            family = make(f"guardrail_pool_{one.name}", one.told, labels=one.labels)
            for labels, value in one.values:
                family.add_metric(labels, value)
            yield family
        for spread in spreads(now):
            histogram = HistogramMetricFamily(f"guardrail_pool_{spread.name}", spread.told)
            ends = [*map(str, spread.values.bounds), "+Inf"]
            so_far = list(accumulate(spread.values.counts))
            histogram.add_metric([], list(zip(ends, so_far, strict=True)), spread.values.total)
            yield histogram
