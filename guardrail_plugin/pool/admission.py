"""Who is let into the queue: bounds, and room kept for tenants who hold little. Pure; time is injected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from guardrail_plugin.pool.shares import MAX_TENANTS

Fit: TypeAlias = Literal["fits", "full", "over share"]
"""``full``: there is no room, or not for a list as large as this, which has to wait until most of the queue has gone.
``over share``: there is room, but the tenant holds its part of the queue and what is left is for others.
"""

PRESENT_S = 10.0
"""A tenant counts as present for so long after its last request."""

_OPEN_PART = 0.75  # of the queue: as far as one tenant may fill it while others are present


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of the queue and of a batch.

    Attributes:
        max_queued: waiting requests; each item of a list counts.
        max_queued_tokens: their tokens.
        max_batch: rows of a batch.
        max_batch_tokens: its tokens, padding counted.
        max_decode_tokens: prompt tokens of all decodes in progress on one slot, padding counted.
    """

    max_queued: int = 1024
    max_queued_tokens: int = 262_144
    max_batch: int = 64
    max_batch_tokens: int = 4096
    max_decode_tokens: int = 4096


@dataclass(frozen=True, slots=True)
class Load:
    """Requests and their tokens."""

    rows: int
    tokens: int

    def __add__(self, other: Load) -> Load:
        return Load(self.rows + other.rows, self.tokens + other.tokens)


class Admission:
    """Bounds on the queue. Remembers who has asked for something lately, let in or not."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._seen: dict[str, float] = {}  # longest ago first

    def within(self, load: Load, *, part: float = 1.0) -> bool:
        """Tell whether a part of the queue holds this."""
        return load.rows <= self._limits.max_queued * part and load.tokens <= self._limits.max_queued_tokens * part

    def fit(self, tenant: str, news: Load, *, waiting: Load, own: Load, now: float) -> Fit:
        """Tell whether there is room.

        A tenant alone may fill the queue. With others present, the last quarter is for those that hold less than an
        equal part of it: whoever floods the queue is turned away before the others are.

        A list that is larger than an equal part would be over its share for ever: once the tenant has nothing else
        queued, it waits like one for which the queue is full, so that those who come later do not overtake it.

        Args:
            news: what would come in.
            waiting: what is queued; ``own``: of that, the tenant's.
        """
        if not self.within(waiting + news):
            return "full"
        if waiting.rows == 0 or self.within(waiting + news, part=_OPEN_PART):
            return "fits"
        others = self.tenants(now) - (tenant in self._seen)
        part = 1 / (others + 1)
        if others == 0 or self.within(own + news, part=part):
            return "fits"
        return "over share" if own.rows or self.within(news, part=part) else "full"

    def note(self, tenant: str, now: float) -> None:
        """Note that a tenant asks for something."""
        self._seen.pop(tenant, None)
        self._seen[tenant] = now
        if len(self._seen) > MAX_TENANTS:
            del self._seen[next(iter(self._seen))]

    def tenants(self, now: float) -> int:
        """Return how many tenants are present."""
        for tenant in list(self._seen):
            if self._seen[tenant] >= now - PRESENT_S:
                break
            del self._seen[tenant]
        return len(self._seen)
