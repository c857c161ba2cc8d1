"""What became of the requests of a simulation, and the figures drawn from it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from guardrail_plugin.core.errors import GuardianTimeout, PoolOverloaded
from guardrail_plugin.pool.jobs import AnyJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """The figures of one simulated pool. Waits are of verdicts, from the request to the start of its batch.

    Attributes:
        load: offered, as a share of what the replicas can do in full batches.
        rate: verdicts asked for per second.
        answered, rejected, expired, failed: of ``requests``; they add up to it. ``rejected``: turned away at once with
            a time to retry after; ``failed``: the model fails on the request, whoever runs it.
        responses: decoded after verdicts, ``responses_lost``: those that got an error.
        deaths: replicas that died and were replaced.
        busy: share of the replicas' time.
        heavy_wait_p99_s, light_wait_p99_s: of the app that sends most, and the worst of the others.
        heavy_lost, light_lost: share of their verdicts that were not given, likewise.
    """

    replicas: int
    load: float
    rate: float
    requests: int
    answered: int
    rejected: int
    expired: int
    failed: int
    responses: int
    responses_lost: int
    response_p50_s: float
    wait_p50_s: float
    wait_p99_s: float
    latency_p50_s: float
    latency_p99_s: float
    heavy_wait_p99_s: float
    light_wait_p99_s: float
    heavy_lost: float
    light_lost: float
    deaths: int
    busy: float

    @property
    def lost(self) -> float:
        """Share of the verdicts asked for that the pool did not give."""
        return (self.rejected + self.expired + self.failed) / self.requests


@dataclass(slots=True, eq=False)
class _Life:
    """One request."""

    tenant: str
    verdict: bool
    asked: float
    started: float | None = None
    ended: float | None = None
    how: str = ""


@dataclass(slots=True)
class Outcomes:
    """Follows every request from its coming to its one end."""

    _lives: dict[AnyJob, _Life] = field(default_factory=dict)

    def asked(self, job: AnyJob, now: float) -> None:
        """Note that a request came."""
        self._lives[job] = _Life(job.tenant, job.kind == "score", now)

    def turned_away(self, job: AnyJob, error: Exception) -> None:
        """Note that it was not let in."""
        self._end(job, "rejected" if isinstance(error, PoolOverloaded) else "failed", None)

    def started(self, job: AnyJob, now: float) -> None:
        """Note that a batch with it began; only the first time counts."""
        life = self._lives[job]
        life.started = now if life.started is None else life.started

    def ended(self, job: AnyJob, now: float) -> None:
        """Note its answer or error."""
        error = job.future.exception()
        how = "answered" if error is None else "expired" if isinstance(error, GuardianTimeout) else "failed"
        self._end(job, how, now)

    def summary(self, *, replicas: int, load: float, rate: float, deaths: int, busy: float) -> Simulated:
        """Return the figures.

        Raises:
            RuntimeError: a request has no end.
        """
        if any(not life.how for life in self._lives.values()):
            raise RuntimeError("a request was lost")
        verdicts = [life for life in self._lives.values() if life.verdict]
        responses = [life for life in self._lives.values() if not life.verdict]
        ends = Counter(life.how for life in verdicts)
        by_tenant: dict[str, list[_Life]] = defaultdict(list)
        for life in verdicts:
            by_tenant[life.tenant].append(life)
        heavy = max(by_tenant, key=lambda name: len(by_tenant[name]))
        light = [lives for name, lives in by_tenant.items() if name != heavy]
        return Simulated(
            replicas=replicas,
            load=load,
            rate=rate,
            requests=len(verdicts),
            answered=ends["answered"],
            rejected=ends["rejected"],
            expired=ends["expired"],
            failed=ends["failed"],
            responses=len(responses),
            responses_lost=sum(life.how != "answered" for life in responses),
            response_p50_s=quantile(_latencies(responses), 0.5),
            wait_p50_s=quantile(_waits(verdicts), 0.5),
            wait_p99_s=quantile(_waits(verdicts), 0.99),
            latency_p50_s=quantile(_latencies(verdicts), 0.5),
            latency_p99_s=quantile(_latencies(verdicts), 0.99),
            heavy_wait_p99_s=quantile(_waits(by_tenant[heavy]), 0.99),
            light_wait_p99_s=max((quantile(_waits(lives), 0.99) for lives in light), default=0.0),
            heavy_lost=_lost(by_tenant[heavy]),
            light_lost=max(map(_lost, light), default=0.0),
            deaths=deaths,
            busy=busy,
        )

    def _end(self, job: AnyJob, how: str, now: float | None) -> None:
        life = self._lives[job]
        if life.how:
            raise RuntimeError("a request ended twice")
        life.how = how
        life.ended = now


def quantile(values: Sequence[float], q: float) -> float:
    """Return the value below which a share ``q`` of the values lies; 0 where there are none."""
    return sorted(values)[min(int(q * len(values)), len(values) - 1)] if values else 0.0


def _waits(lives: Sequence[_Life]) -> list[float]:
    return [life.started - life.asked for life in lives if life.started is not None]


def _latencies(lives: Sequence[_Life]) -> list[float]:
    return [life.ended - life.asked for life in lives if life.ended is not None and life.how == "answered"]


def _lost(lives: Sequence[_Life]) -> float:
    return sum(life.how != "answered" for life in lives) / len(lives)
