"""Observers: records hold fields only; metrics, traces and logs say what happened; a broken one does no harm."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain_core.runnables import RunnableGenerator, RunnableLambda
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from guardrail_plugin import Check, GuardianError, InferencePool, Policy, guard
from guardrail_plugin.flow import Blocked
from guardrail_plugin.observe import (
    JsonFormatter,
    LogObserver,
    ObserverCallback,
    Observers,
    RailEvent,
    RequestEvent,
    log_json,
)
from guardrail_plugin.observe.prometheus import PrometheusMetrics
from guardrail_plugin.observe.telemetry import Telemetry
from guardrail_plugin.testing import ScriptedGuardian, allow_all, block_all, verdict

SECRET = "my private words about a bomb"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def event(*, request_id: str = "") -> RailEvent:
    outcome = Blocked("input", "No.", verdict(risk=0.9, hazard="S9"))
    return RailEvent.of(outcome, policy=Policy(), seconds=0.25, checks=[Check(SECRET)], request_id=request_id)


def request(*, error: str | None = None, status: int = 200) -> RequestEvent:
    return RequestEvent(
        operation="chat",
        status=status,
        seconds=1.0,
        started_at_s=1000.0,
        model="m",
        provider="openai",
        streamed=True,
        first_chunk_s=0.4,
        input_tokens=7,
        output_tokens=5,
        finish_reasons=("content_filter",),
        error=error,
        request_id="r1",
        traceparent=PARENT,
        rails=(event(request_id="r1"),),
    )


class Heard:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.rails: list[RailEvent] = []

    def rail(self, event: RailEvent) -> None:
        self.rails.append(event)

    def request(self, event: RequestEvent) -> None:
        raise AssertionError(SECRET)


def test_a_record_shows_no_text() -> None:
    assert SECRET not in repr(event())
    assert SECRET not in json.dumps(event().as_dict())


def test_a_broken_observer_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    first, last = Heard(), Heard()
    Observers([first, last]).request(request())
    Observers([first, last]).rail(event())
    assert len(first.rails) == len(last.rails) == 1
    assert "Heard failed: AssertionError" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("text", "action", "error"), [("hello", "allow", None), ("bomb", "block", None), ("mute", "block", "GuardianError")]
)
async def test_guarded_chains_are_observed(text: str, action: str, error: str | None) -> None:
    guardian = ScriptedGuardian({"bomb": verdict(risk=0.9, hazard="S9"), "mute": GuardianError("nothing")})
    heard = Heard()
    safe = guard(RunnableLambda(str.upper), guardian=guardian, output_type=str)
    config = {"callbacks": [ObserverCallback(heard, caller="me")]}
    safe.invoke(text, config)  # type: ignore[arg-type]
    await safe.ainvoke(text, config)  # type: ignore[arg-type]
    assert [(e.rail, e.action, e.error, e.caller) for e in heard.rails] == [("input", action, error, "me")] * 2
    if action == "block" and error is None:
        assert heard.rails[0].hazards == {"S9": 0.9}


async def test_what_ends_a_rail_without_a_decision_is_none() -> None:
    """A reader who leaves, a task that is cancelled, a chain that fails: the guardian has not failed, nor blocked."""

    async def words(source: Any) -> AsyncIterator[str]:
        yield "The first sentence is fine. "
        if source == "fail":
            raise ConnectionError("down")
        yield "The second one is, too. "
        await asyncio.sleep(20)

    async def answer(source: AsyncIterator[str]) -> AsyncIterator[str]:
        async for one in source:
            async for word in words(one):
                yield word

    heard = Heard()
    safe = guard(RunnableGenerator(answer), guardian=allow_all(), rails=("input", "output"), output_type=str)
    config: Any = {"callbacks": [ObserverCallback(heard)]}
    stream = safe.astream("leave", config)
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    with pytest.raises(ConnectionError):
        [chunk async for chunk in safe.astream("fail", config)]
    task = asyncio.create_task(safe.ainvoke("cancel", config))
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert {(e.rail, e.action, e.error) for e in heard.rails} == {("input", "allow", None)}


def test_prometheus() -> None:
    metrics = PrometheusMetrics()
    with InferencePool() as pool:
        metrics.watch_pool(pool.stats)
        metrics.rail(event())
        metrics.request(request(error="overloaded", status=429))
        text = metrics.render().decode()
    assert 'guardrail_verdicts_total{action="block",hazard="S9",rail="input"} 1.0' in text
    assert 'guardrail_requests_total{caller="",operation="chat",status="429"} 1.0' in text
    assert 'guardrail_errors_total{code="overloaded",operation="chat"} 1.0' in text
    assert 'guardrail_pool_requests_total{ending="rejected"} 0.0' in text
    assert "guardrail_pool_wait_seconds_sum 0.0" in text
    assert "guardrail_pool_batch_size_count 0.0" in text
    assert SECRET not in text


def test_spans_and_metrics_follow_the_conventions() -> None:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry = Telemetry(tracer_provider=tracers, meter_provider=MeterProvider([reader]))
    told = request()
    telemetry.rail(told.rails[0])
    telemetry.request(told)
    rail, whole = exporter.get_finished_spans()
    assert (whole.name, rail.name) == ("chat m", "guardrail input")
    assert whole.context is not None
    assert rail.parent is not None
    assert whole.parent is not None
    assert rail.parent.span_id == whole.context.span_id
    assert f"{whole.parent.trace_id:032x}" == PARENT.split("-")[1]
    assert whole.attributes is not None
    assert whole.attributes["gen_ai.operation.name"] == "chat"
    assert whole.attributes["gen_ai.response.finish_reasons"] == ("content_filter",)
    assert whole.attributes["gen_ai.usage.output_tokens"] == 5
    assert whole.end_time is not None
    assert whole.start_time is not None
    assert whole.end_time - whole.start_time == 1_000_000_000
    assert rail.attributes is not None
    assert rail.attributes["gen_ai.evaluation.score.value"] == 0.9
    assert rail.attributes["guardrail.action"] == "block"
    assert SECRET not in whole.to_json() + rail.to_json()
    data = reader.get_metrics_data()
    assert data is not None
    names = {metric.name for kind in data.resource_metrics for scope in kind.scope_metrics for metric in scope.metrics}
    assert names == {
        "gen_ai.server.request.duration",
        "gen_ai.server.time_to_first_token",
        "gen_ai.client.token.usage",
        "guardrail.rail.duration",
        "guardrail.verdicts",
    }


def test_a_rail_outside_requests_is_traced_on_its_own() -> None:
    exporter = InMemorySpanExporter()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    Telemetry(tracer_provider=tracers, meter_provider=MeterProvider()).rail(event())
    [span] = exporter.get_finished_spans()
    assert span.name == "guardrail input"


def test_blocks_are_logged_under_the_librarys_name(caplog: pytest.LogCaptureFixture) -> None:
    chain = guard(RunnableLambda(str), guardian=block_all(), policy=Policy(threshold=0.02), output_type=str)
    with caplog.at_level("INFO"):
        chain.with_config(callbacks=[ObserverCallback(LogObserver())]).invoke(SECRET)
    [record] = caplog.records
    assert (record.name, record.getMessage()) == ("guardrail_plugin.rails", "input rail: block")
    fields = record.__dict__["guardrail_fields"]
    assert (fields["policy_threshold"], fields["acted_on"]) == (0.02, "risk")
    assert SECRET not in caplog.text + str(fields)


def test_structured_logs() -> None:
    stream = io.StringIO()
    logger = logging.Logger("test")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    observer = LogObserver(logger=logger)
    observer.rail(event())
    observer.request(request(error="overloaded", status=429))
    try:
        raise ValueError(SECRET)
    except ValueError:
        logger.exception("it failed")
    rail, whole, failed = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (rail["message"], rail["hazard"]) == ("input rail: block", "S9")
    assert (whole["status"], whole["error"], whole["first_chunk_s"]) == (429, "overloaded", 0.4)
    assert (failed["level"], failed["exception"]) == ("error", "ValueError")
    assert SECRET not in stream.getvalue()


async def test_an_error_that_nobody_awaited_is_logged_without_its_text() -> None:
    stream = io.StringIO()
    names = ("guardrail_plugin", "guardrail_gateway", "uvicorn", "asyncio")
    before = [(logging.getLogger(name), logging.getLogger(name).level) for name in names]
    handler = log_json(stream=stream)
    try:
        asyncio.get_running_loop().create_future().set_exception(ValueError(SECRET))
        gc.collect()
    finally:
        for logger, level in before:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = True
    [line] = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (line["logger"], line["exception"]) == ("asyncio", "ValueError")
    assert line["message"] == "Future exception was never retrieved"


def test_what_asyncio_shows_of_a_slow_task_is_not_logged() -> None:
    """In debug mode it names the task in one line, with its result or error."""
    args: tuple[object, ...] = (f"<Task finished exception=ValueError('{SECRET}')>", 0.2)
    record = logging.LogRecord("asyncio", logging.WARNING, "", 0, "Executing %s took %.3f seconds", args, None)
    line = JsonFormatter().format(record)
    assert SECRET not in line
    assert json.loads(line)["message"].startswith("Executing")


def test_a_guardian_that_crashes_is_told_of() -> None:
    class Broken(ScriptedGuardian):
        def check_many(self, checks: Any, *, timeout_s: float | None = None) -> Any:
            raise RuntimeError("broken")

    heard = Heard()
    safe = guard(RunnableLambda(str.upper), guardian=Broken({}), output_type=str)
    with pytest.raises(RuntimeError):
        safe.invoke("hi", {"callbacks": [ObserverCallback(heard)]})
    assert [(e.rail, e.action, e.error) for e in heard.rails] == [("input", "block", "RuntimeError")]
