"""OpenTelemetry spans and metrics, under the GenAI semantic conventions.

The conventions moved to a repository of their own while under development, and the Python package marks its constants
as deprecated: the names stand here. Rails have no convention yet; theirs begin with ``guardrail.``, and a verdict is
also told as an evaluation (``gen_ai.evaluation.*``).
"""

from __future__ import annotations

from collections.abc import Mapping

from guardrail_plugin._version import __version__
from guardrail_plugin.core.errors import MissingDependencyError
from guardrail_plugin.observe.event import RailEvent, RequestEvent

try:
    from opentelemetry import metrics, trace
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise MissingDependencyError(error.name or "opentelemetry", extra="observe") from None

_SCOPE = "guardrail_plugin"
_OPERATIONS = {"chat": "chat", "responses": "chat", "moderations": "moderation", "models": "models"}
_NS = 1_000_000_000

_Attributes = dict[str, str | int | float | bool | tuple[str, ...]]


class Telemetry:
    """An observer that makes one span per request, with a child for each rail, and the conventions' metrics.

    Spans are made when their work has ended, with its times, so that nothing is carried through the request. A request
    that came with a ``traceparent`` joins that trace; rails outside requests join the trace that is current.

    Args:
        tracer_provider, meter_provider: ``None``: the global ones.
    """

    def __init__(
        self, *, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        self._tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider)
        meter = metrics.get_meter(_SCOPE, __version__, meter_provider)
        self._duration = meter.create_histogram(
            "gen_ai.server.request.duration", unit="s", description="Until a request's last byte."
        )
        self._first = meter.create_histogram(
            "gen_ai.server.time_to_first_token", unit="s", description="Until a stream's first byte."
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage", unit="{token}", description="Tokens that the model behind reported."
        )
        self._rails = meter.create_histogram(
            "guardrail.rail.duration", unit="s", description="Until a rail's decision."
        )
        self._verdicts = meter.create_counter("guardrail.verdicts", unit="{verdict}", description="Rail decisions.")

    def rail(self, event: RailEvent) -> None:
        """Measure a decision; outside requests, also trace it."""
        counted: _Attributes = {"guardrail.rail": event.rail, "guardrail.action": event.action}
        if event.error is not None:
            counted["error.type"] = event.error
        self._rails.record(event.seconds, counted)
        self._verdicts.add(1, {**counted, "guardrail.hazard": event.hazard if event.harmful and event.hazard else ""})
        if not event.request_id:
            self._trace_rail(event, context=None)

    def request(self, event: RequestEvent) -> None:
        """Trace and measure a request, with its rails."""
        start_ns = int(event.started_at_s * _NS)
        end_ns = start_ns + int(event.seconds * _NS)
        carrier = {"traceparent": event.traceparent} if event.traceparent else {}
        parent = TraceContextTextMapPropagator().extract(carrier, context=Context())
        attributes = _request_attributes(event)
        name = f"{attributes['gen_ai.operation.name']} {event.model}".strip()
        span = self._tracer.start_span(
            name, context=parent, kind=SpanKind.SERVER, attributes=attributes, start_time=start_ns
        )
        if event.status >= 500:
            span.set_status(Status(StatusCode.ERROR, event.error))
        inside = trace.set_span_in_context(span, parent)
        for rail in event.rails:
            self._trace_rail(rail, context=inside)
        span.end(end_ns)
        measured: _Attributes = {
            key: attributes[key]
            for key in ("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "error.type")
            if key in attributes
        }
        self._duration.record(event.seconds, measured)
        if event.first_chunk_s is not None:
            self._first.record(event.first_chunk_s, measured)
        for kind, count in (("input", event.input_tokens), ("output", event.output_tokens)):
            if count is not None:
                self._tokens.record(count, {**measured, "gen_ai.token.type": kind})

    def _trace_rail(self, event: RailEvent, *, context: Context | None) -> None:
        end_ns = int(event.ended_at_s * _NS)
        span = self._tracer.start_span(
            f"guardrail {event.rail}",
            context=context,
            attributes=_rail_attributes(event),
            start_time=end_ns - int(event.seconds * _NS),
        )
        if event.error is not None:
            span.set_status(Status(StatusCode.ERROR, event.error))
        span.end(end_ns)


def _request_attributes(event: RequestEvent) -> _Attributes:
    given: Mapping[str, str | int | float | bool | tuple[str, ...] | None] = {
        "gen_ai.operation.name": _OPERATIONS.get(event.operation, event.operation),
        "gen_ai.provider.name": event.provider or None,
        "gen_ai.request.model": event.model or None,
        "gen_ai.request.stream": event.streamed,
        "gen_ai.response.finish_reasons": event.finish_reasons or None,
        "gen_ai.response.time_to_first_chunk": event.first_chunk_s,
        "gen_ai.usage.input_tokens": event.input_tokens,
        "gen_ai.usage.output_tokens": event.output_tokens,
        "http.response.status_code": event.status,
        "guardrail.request_id": event.request_id,
        "guardrail.caller": event.caller,
        "error.type": event.error,
    }
    return {key: value for key, value in given.items() if value is not None}


def _rail_attributes(event: RailEvent) -> _Attributes:
    given: Mapping[str, str | int | float | bool | None] = {
        "guardrail.rail": event.rail,
        "guardrail.action": event.action,
        "guardrail.hazard": event.hazard,
        "guardrail.guardian": event.guardian_id,
        "guardrail.policy_version": event.policy_version,
        "guardrail.windows": event.windows,
        "guardrail.released_characters": event.released_characters,
        "gen_ai.evaluation.name": "guardrail.risk" if event.risk is not None else None,
        "gen_ai.evaluation.score.value": event.risk,
        "gen_ai.evaluation.score.label": None if event.harmful is None else "harmful" if event.harmful else "harmless",
        "error.type": event.error,
    }
    return {key: value for key, value in given.items() if value is not None}
