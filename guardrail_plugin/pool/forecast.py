"""How long newcomers will wait: measured speed, what tenants ask for, and how wrong earlier forecasts were. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

RETRY_AFTER_UNMEASURED_S = 1.0
RETRY_AFTER_LEAST_S = 0.05
RETRY_AFTER_MOST_S = 60.0

DEMAND_S = 5.0
"""What a tenant asked for fades from its demand with this time constant."""

MOST_TENANTS = 256
"""Tenants (times models) whose demand is remembered."""

_FORGOTTEN_S = 6 * DEMAND_S
_RATES_S = 0.1
_FIRST_S = 0.5  # a tenant's first request does not count as having come in no time

_TOO_LATE = 0.001  # share of what is let in that may take longer than it has
_CAUTION_STEP = 0.1
_FIRST_CAUTION = 1.35
_MOST_CAUTION = 4.0
_CAUTION_S = 60.0
_IMMATERIAL = 0.02

_PACE_DECAY = 0.9  # weight of the past after each batch: about the last ten batches count

_FIXED_POINT_ROUNDS = 3


class Pace:
    """How fast one slot runs each model while work is waiting: time per token, as about the last ten batches had it."""

    def __init__(self) -> None:
        self._measured: dict[str, tuple[float, float]] = {}  # fading tokens and seconds; latest last
        self._lost_s = 0.0

    def add(self, model: str, tokens: int, seconds: float, *, loaded: bool) -> None:
        """Count one batch.

        One that left nobody waiting and was small (not ``loaded``) only tells that the model is not slower than that:
        so a pace that was once measured too slow is mended though few are let in.
        """
        known, spent = self._measured.pop(model, (0.0, 0.0))
        if loaded:
            known, spent = known * _PACE_DECAY + tokens, spent * _PACE_DECAY + seconds + self._lost_s
        elif known * seconds < tokens * spent:
            known, spent = float(tokens), seconds
        self._lost_s = 0.0
        if known and spent > 0:
            self._measured[model] = known, spent

    def lost(self, seconds: float) -> None:
        """Note what was done for a decode while verdicts waited: it counts with the next batch."""
        self._lost_s = seconds

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens per second of one slot, of the model that ran last; ``None`` until it has been measured."""
        last = next(reversed(self._measured), None)
        return None if last is None else 1 / self._measured_s(last)

    def token_s(self, model: str) -> float | None:
        """Return seconds per token on one slot; ``None`` until it has been measured."""
        return self._measured_s(model) if model in self._measured else None

    def _measured_s(self, model: str) -> float:
        tokens, seconds = self._measured[model]
        return seconds / tokens


def retry_after_s(wait_s: float | None) -> float:
    """Return when to try again, given how long what waits will take; ``None``: nobody knows."""
    after_s = RETRY_AFTER_UNMEASURED_S if wait_s is None else wait_s
    return min(max(after_s, RETRY_AFTER_LEAST_S), RETRY_AFTER_MOST_S)


class Demand:
    """Tokens per second that each tenant has lately brought for each model: a fading sum over the time it covers.

    Of the ``MOST_TENANTS`` that came last. Asked for with every request, so worked out only ten times a second.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], _Fading] = {}  # longest ago first
        self._rates: dict[tuple[str, str], float] = {}
        self._rates_at = -math.inf

    def note(self, tenant: str, model: str, tokens: int, now: float) -> None:
        """Note what was let in."""
        seen = self._sums.pop((tenant, model), None)
        if seen is None or seen.at < now - _FORGOTTEN_S:
            seen = _Fading(0.0, now, now)
        self._sums[tenant, model] = _Fading(seen.left(now) + tokens, now, seen.first)
        while len(self._sums) > MOST_TENANTS or next(iter(self._sums.values())).at < now - _FORGOTTEN_S:
            del self._sums[next(iter(self._sums))]

    def rates(self, now: float) -> Mapping[tuple[str, str], float]:
        """Return tokens per second by tenant and model."""
        if now >= self._rates_at + _RATES_S:
            self._rates_at = now
            self._rates = {key: seen.rate(now) for key, seen in self._sums.items()}
        return self._rates


@dataclass(frozen=True, slots=True)
class _Fading:
    tokens: float
    at: float
    first: float

    def left(self, now: float) -> float:
        return self.tokens * math.exp((self.at - now) / DEMAND_S)

    def rate(self, now: float) -> float:
        covered = -math.expm1(-max(now - self.first, _FIRST_S) / DEMAND_S)
        return self.left(now) / (DEMAND_S * covered)


def share_of_queue(own: float, waiting: Mapping[str, float], demand: Mapping[str, float], *, slots: int) -> float:
    """Return how much queued work is done until the last of one tenant's ``own`` is, itself included.

    Tenants have equal shares: of each other one as much runs meanwhile as of this, or as it has, if that is less: what
    waits (``waiting``) and what will come until then (``demand``, per second). So the answer is a fixed point.

    Args:
        own: work, in seconds of one slot; ``waiting`` and ``demand`` of the others likewise, by tenant.
        slots: how many work.
    """
    others = [(waiting.get(tenant, 0.0), rate) for tenant, rate in demand.items()]
    others += [(work, 0.0) for tenant, work in waiting.items() if tenant not in demand]
    total = own
    for _ in range(_FIXED_POINT_ROUNDS if others else 0):
        wait_s = total / slots
        total = own + sum([min(own, work + rate * wait_s) for work, rate in others])
    return total


class Caution:
    """How many times longer than estimated answers take in the slowest permille: follows that quantile as it moves.

    Batches differ, and machines have other things to do: an estimate of the mean, taken as it is, would let in many
    that come too late. What that taught fades with time.

    Source: Robbins and Monro's stochastic approximation of a quantile.
    """

    def __init__(self) -> None:
        self._factor = _FIRST_CAUTION
        self._at = -math.inf

    def factor(self, now: float) -> float:
        """Return by what an estimate is to be multiplied."""
        return _FIRST_CAUTION + (self._factor - _FIRST_CAUTION) * math.exp(min(0.0, self._at - now) / _CAUTION_S)

    def saw(self, *, estimated_s: float, took_s: float, allowed_s: float, now: float) -> None:
        """Note an answer, or (``took_s`` infinite) that there was none in time.

        A difference that is small beside the time that was allowed tells nothing.
        """
        before = self.factor(now)
        longer = took_s > before * estimated_s + _IMMATERIAL * allowed_s
        step = _CAUTION_STEP if longer else -_CAUTION_STEP * _TOO_LATE / (1 - _TOO_LATE)
        self._factor, self._at = min(max(1.0, before + step), _MOST_CAUTION), now
