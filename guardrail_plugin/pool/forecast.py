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
"""Tenants whose demand is remembered."""

_FORGOTTEN_S = 6 * DEMAND_S
_RATES_S = 0.1
_FIRST_S = 0.5  # a tenant's first request does not count as having come in no time

_TOO_LATE = 0.001  # share of what is let in that may take longer than it has
_CAUTION_STEP = 0.1
_FIRST_CAUTION = 1.35
_MOST_CAUTION = 4.0

_PACE_DECAY = 0.9  # weight of the past after each batch: about the last ten batches count

_FIXED_POINT_ROUNDS = 3


class Pace:
    """Tokens per second of one slot while work is waiting. Small batches only tell that it is not slower."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0
        self._lost_s = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """Count one batch that left others waiting, or that was large."""
        self._tokens = self._tokens * _PACE_DECAY + tokens
        self._seconds = self._seconds * _PACE_DECAY + seconds + self._lost_s
        self._lost_s = 0.0

    def add_small(self, tokens: int, seconds: float) -> None:
        """Count one that was neither: so a pace that was once measured too slow is mended though few are let in."""
        self._lost_s = 0.0
        if self._tokens * seconds < tokens * self._seconds:
            self._tokens, self._seconds = float(tokens), seconds

    def lost(self, seconds: float) -> None:
        """Count time that went to decodes while verdicts waited."""
        self._lost_s += seconds

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens per second of one slot; ``None`` until it has been measured."""
        return self._tokens / self._seconds if self._tokens and self._seconds > 0 else None

    def retry_after_s(self, tokens: int, slots: int) -> float:
        """Return when to try again, given what waits."""
        wait_s = self.wait_s(tokens, slots)
        after_s = RETRY_AFTER_UNMEASURED_S if wait_s is None else wait_s
        return min(max(after_s, RETRY_AFTER_LEAST_S), RETRY_AFTER_MOST_S)

    def wait_s(self, tokens: float, slots: int) -> float | None:
        """Return how long this many waiting tokens take on so many slots; ``None`` until it has been measured."""
        pace = self.tokens_per_s
        return tokens / (pace * slots) if pace and slots > 0 else None


class Demand:
    """Tokens per second that each tenant has lately brought into the queue: a fading sum over the time it covers.

    Of the ``MOST_TENANTS`` that came last. Asked for with every request, so worked out only ten times a second.
    """

    def __init__(self) -> None:
        self._sums: dict[str, _Fading] = {}  # longest ago first
        self._rates: dict[str, float] = {}
        self._rates_at = -math.inf

    def note(self, tenant: str, tokens: int, now: float) -> None:
        """Note what was let in."""
        seen = self._sums.pop(tenant, None)
        if seen is None or seen.at < now - _FORGOTTEN_S:
            seen = _Fading(0.0, now, now)
        self._sums[tenant] = _Fading(seen.left(now) + tokens, now, seen.first)
        if len(self._sums) > MOST_TENANTS:
            del self._sums[next(iter(self._sums))]

    def rates(self, now: float) -> Mapping[str, float]:
        """Return each tenant's tokens per second."""
        if now >= self._rates_at + _RATES_S:
            self._rates_at = now
            self._rates = {
                tenant: seen.rate(now) for tenant, seen in self._sums.items() if seen.at >= now - _FORGOTTEN_S
            }
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


def share_of_queue(
    own: float, waiting: Mapping[str, float], demand: Mapping[str, float], *, tokens_per_s: float
) -> float:
    """Return how many queued tokens run until the last of one tenant's ``own`` has run, itself included.

    Tenants have equal shares: of each other one as much runs meanwhile as of this, or as it has, if that is less: what
    waits (``waiting``) and what will come until then (``demand``, per second). So the answer is a fixed point.
    """
    others = [(waiting.get(tenant, 0.0), rate) for tenant, rate in demand.items()]
    others += [(tokens, 0.0) for tenant, tokens in waiting.items() if tenant not in demand]
    total = own
    for _ in range(_FIXED_POINT_ROUNDS if others else 0):
        wait_s = total / tokens_per_s
        total = own + sum([min(own, tokens + rate * wait_s) for tokens, rate in others])
    return total


class Caution:
    """How many times longer than estimated answers take in the slowest percent: follows that quantile as it moves.

    A batch ends later than its first row, and neighbours in length overtake: an estimate of the mean, taken as it is,
    would let in many that come too late.

    Source: Robbins and Monro's stochastic approximation of a quantile.
    """

    def __init__(self) -> None:
        self.factor = _FIRST_CAUTION

    def saw(self, *, estimated_s: float, took_s: float, in_time: bool) -> None:
        """Note an answer, or that there was none in time."""
        longer = not in_time or took_s > self.factor * estimated_s
        step = _CAUTION_STEP if longer else -_CAUTION_STEP * _TOO_LATE / (1 - _TOO_LATE)
        self.factor = min(max(1.0, self.factor + step), _MOST_CAUTION)
