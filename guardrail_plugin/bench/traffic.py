"""The callers of a simulated pool: who asks, when, how much, and how often the answer is a response."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from guardrail_plugin.bench.virtual import POISON

_FIRST_ID = 100


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: when it comes, from whom, its token ids, and whether a response is written after its verdict."""

    at: float
    tenant: str
    input_ids: tuple[int, ...]
    harmful: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What comes in. Poisson arrivals; query lengths log-normal: many short, few of hundreds of tokens.

    Attributes:
        template_tokens: shared by all, kept by the engine.
        median_tokens: of a query with its suffix.
        spread: standard deviation of the logarithm of a query's length.
        max_tokens: longer texts are checked in windows of this size.
        harmful: share of requests after whose verdict a response is decoded.
        response_tokens: of a response.
        poison: share of requests on which the model fails.
        tenants: apps that share the pool; the first sends ``heavy`` of all requests, the others the same each.
        timeout_s: of a verdict; what a policy allows by default.
    """

    template_tokens: int = 65
    median_tokens: int = 26
    spread: float = 0.7
    max_tokens: int = 512
    harmful: float = 0.02
    response_tokens: int = 48
    poison: float = 0.0005
    tenants: int = 8
    heavy: float = 0.5
    timeout_s: float = 10.0

    def arrivals(self, *, rate: float, count: int, seed: int) -> Iterator[Arrival]:
        """Draw requests, ``rate`` per second on average."""
        draw = random.Random(seed)
        names = [f"app {i}" for i in range(self.tenants)]
        light = (1.0 - self.heavy) / max(1, self.tenants - 1)
        weights = [self.heavy, *[light] * (self.tenants - 1)]
        now = 0.0
        for i in range(count):
            now += draw.expovariate(rate)
            query = round(self.median_tokens * 2.718281828459045 ** draw.gauss(0.0, self.spread))
            length = self.template_tokens + min(max(query, 4), self.max_tokens)
            first = POISON if draw.random() < self.poison else 0
            ids = (first, _FIRST_ID + i, *[0] * (length - 2))  # no two are alike: none is coalesced
            tenant = draw.choices(names, weights)[0]
            yield Arrival(now, tenant, ids, draw.random() < self.harmful)
