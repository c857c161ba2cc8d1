"""A pool's counters as metrics, read from ``stats()`` when asked for: one table for Prometheus and OpenTelemetry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from guardrail_plugin.core.errors import MissingDependencyError
from guardrail_plugin.pool.stats import Distribution, PoolStats

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

_ENDINGS = ("completed", "failed", "cancelled", "expired", "rejected")
_SLOT_PHASES = ("idle", "building", "scoring", "decoding", "retired")


@dataclass(frozen=True, slots=True)
class Reading:
    """One metric at one moment.

    Attributes:
        name: without prefix; ends in its unit where it has one.
        values: by label values; ``()`` where there is no label.
        labels: their names.
    """

    name: str
    told: str
    kind: Literal["gauge", "counter"]
    values: tuple[tuple[tuple[str, ...], float], ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Spread:
    """One distribution at one moment."""

    name: str
    told: str
    values: Distribution = field(repr=False)


def readings(now: PoolStats) -> Iterator[Reading]:
    """Yield everything that a pool counts. Labels name models, devices and phases: never tenants, never text."""
    yield Reading(
        "requests",
        "Requests by how they ended.",
        "counter",
        tuple(((ending,), float(getattr(now, ending))) for ending in _ENDINGS),
        ("ending",),
    )
    for name, told, value in (
        ("queued", "Waiting requests.", now.queued),
        ("queued_tokens", "Their tokens.", now.queued_tokens),
        ("running", "Requests in a batch.", now.running),
        ("joined", "Requests that wait for the run of an equal one.", now.joined),
        ("blocked", "Callers that wait for room.", now.blocked),
        ("tenants", "Tenants that have asked for something lately.", now.tenants),
        ("padding_ratio", "Share of padding in batch tokens, 0..1.", now.padding_ratio),
        ("tokens_per_second", "Of one slot while work was waiting; 0: not measured.", now.tokens_per_s),
    ):
        yield Reading(name, told, "gauge", (((), float(value)),))
    for name, told, value in (
        ("coalesced", "Requests that joined the run of an equal one.", now.coalesced),
        ("tokens", "Prompt tokens that were run.", now.tokens),
        ("oom_splits", "Batches split for memory.", now.oom_splits),
        ("replica_restarts", "Replicas that were replaced.", now.replica_restarts),
        ("decode_steps", "Decode steps.", now.decode_steps),
        ("execution_seconds", "Seconds inside replicas.", now.execution_s),
    ):
        yield Reading(name, told, "counter", (((), float(value)),))
    yield from _prefixes(now)
    yield from _slots(now)


def spreads(now: PoolStats) -> Iterator[Spread]:
    """Yield how waits, runs and batch sizes are spread."""
    yield Spread("wait_seconds", "From admission to the start of the batch.", now.waits)
    yield Spread("run_seconds", "Of one batch inside its replica.", now.runs)
    yield Spread("batch_size", "Rows of a batch.", now.sizes)


def meter_pool(stats: Callable[[], PoolStats], *, meter_provider: MeterProvider | None = None) -> None:
    """Register a pool with OpenTelemetry, as ``guardrail.pool.*``; it is read when metrics are collected.

    Distributions become two counters, ``.sum`` and ``.count``: OpenTelemetry has no histogram that is read.

    Raises:
        MissingDependencyError: ``opentelemetry`` is not installed.
    """
    try:
        from opentelemetry import metrics
    except ImportError as error:
        raise MissingDependencyError(error.name or "opentelemetry", extra="observe") from None
    from guardrail_plugin._version import __version__

    meter = metrics.get_meter("guardrail_plugin", __version__, meter_provider)
    for one in readings(stats()):
        make = meter.create_observable_gauge if one.kind == "gauge" else meter.create_observable_counter
        make(f"guardrail.pool.{one.name}", callbacks=[_reader(stats, one.name)], description=one.told)
    for spread in spreads(stats()):
        for part in ("sum", "count"):
            meter.create_observable_counter(
                f"guardrail.pool.{spread.name}.{part}",
                callbacks=[_spread_reader(stats, spread.name, part)],
                description=spread.told,
            )


def _prefixes(now: PoolStats) -> Iterator[Reading]:
    for name, told in (
        ("prefix_lookups", "Rows that asked for kept keys and values."),
        ("prefix_hits", "Rows that found some."),
        ("prefix_tokens_reused", "Tokens that were not computed again."),
    ):
        key = name.removeprefix("prefix_")
        values = tuple(((one.model,), float(getattr(one, key))) for one in now.prefixes)
        yield Reading(name, told, "counter", values, ("model",))
    kept = tuple(((one.model,), float(one.nbytes)) for one in now.prefixes)
    yield Reading("prefix_bytes", "Keys and values kept.", "gauge", kept, ("model",))


def _slots(now: PoolStats) -> Iterator[Reading]:
    phases = tuple(((phase,), float(sum(slot.phase == phase for slot in now.slots))) for phase in _SLOT_PHASES)
    yield Reading("slots", "Slots by what they do.", "gauge", phases, ("phase",))
    models = sorted({model for slot in now.slots for model in (*slot.models, *slot.broken)})
    for name, told in (("replicas", "Living replicas."), ("broken_replicas", "Slots that leave the model alone.")):
        key = "models" if name == "replicas" else "broken"
        values = tuple(((m,), float(sum(m in getattr(slot, key) for slot in now.slots))) for m in models)
        yield Reading(name, told, "gauge", values, ("model",))


def _reader(stats: Callable[[], PoolStats], name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
    from opentelemetry.metrics import Observation

    def read(_: CallbackOptions) -> Iterator[Observation]:
        for one in readings(stats()):
            if one.name == name:
                for labels, value in one.values:
                    yield Observation(value, dict(zip(one.labels, labels, strict=True)))

    return read


def _spread_reader(
    stats: Callable[[], PoolStats], name: str, part: str
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    from opentelemetry.metrics import Observation

    def read(_: CallbackOptions) -> Iterator[Observation]:
        for one in spreads(stats()):
            if one.name == name:
                yield Observation(one.values.total if part == "sum" else float(one.values.count))

    return read
