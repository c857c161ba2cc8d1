"""What a load test found, as figures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

End: TypeAlias = Literal["answered", "blocked", "overloaded", "error"]
"""How a request ended: ``blocked`` by a rail, with a whole answer; ``overloaded``: refused, worth another try."""

_QUANTILES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One request of a load test.

    Attributes:
        harmful, streamed: what was sent.
        reason: of an error or overload: the status, code or class.
        seconds: from when it was due until its last byte: a client that falls behind its rate hides nothing.
        first_s: of a stream, until its first text.
    """

    harmful: bool
    streamed: bool
    end: End
    seconds: float
    first_s: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """The figures of a run. Latencies are those of requests that got a whole answer.

    Attributes:
        seconds: from the first request until the last answer.
        unsent: requests that were due while as many as allowed were in progress.
    """

    seconds: float
    shots: tuple[Shot, ...] = field(repr=False)
    unsent: int = 0

    def count(self, end: End) -> int:
        """Return how many requests ended so."""
        return sum(shot.end == end for shot in self.shots)

    def as_dict(self) -> dict[str, object]:
        """Return plain JSON types."""
        whole = [shot for shot in self.shots if shot.end in ("answered", "blocked")]
        return {
            "seconds": round(self.seconds, 3),
            "requests": len(self.shots),
            "requests_per_s": round(len(self.shots) / self.seconds, 2) if self.seconds else 0.0,
            "answers_per_s": round(len(whole) / self.seconds, 2) if self.seconds else 0.0,
            **{end: self.count(end) for end in ("answered", "blocked", "overloaded", "error")},
            "unsent": self.unsent,
            "blocked_share": {
                name: _share([shot for shot in whole if shot.harmful == harmful])
                for name, harmful in (("harmful", True), ("harmless", False))
            },
            "latency_s": {
                "all": quantiles([shot.seconds for shot in whole]),
                "whole": quantiles([shot.seconds for shot in whole if not shot.streamed]),
                "streamed": quantiles([shot.seconds for shot in whole if shot.streamed]),
                "first_text": quantiles([shot.first_s for shot in whole if shot.first_s is not None]),
            },
            "overloads": _reasons(self.shots, "overloaded"),
            "errors": _reasons(self.shots, "error"),
        }


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Return mean, quantiles and maximum by nearest rank; empty if there are no values."""
    if not values:
        return {}
    ordered = sorted(values)
    ranks = {f"p{q * 100:g}": ordered[max(math.ceil(q * len(ordered)), 1) - 1] for q in _QUANTILES}
    told = {"mean": sum(ordered) / len(ordered), **ranks, "max": ordered[-1]}
    return {name: round(value, 4) for name, value in told.items()}


def _share(shots: Sequence[Shot]) -> float | None:
    return round(sum(shot.end == "blocked" for shot in shots) / len(shots), 4) if shots else None


def _reasons(shots: Sequence[Shot], end: End) -> dict[str, int]:
    return dict(Counter(shot.reason for shot in shots if shot.end == end).most_common())
