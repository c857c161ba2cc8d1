"""The capacity of a device on paper: verdicts per second from FLOPs, and how long a queue in front of it is."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What of a Llama-like model decides its cost. Widths in channels."""

    layers: int
    width: int
    kv_width: int
    ff_width: int

    @property
    def body_weights(self) -> int:
        """Weights that every token meets: no embedding, and no head (a verdict reads 16 rows of it)."""
        attention = 2 * self.width * self.width + 2 * self.width * self.kv_width
        return self.layers * (attention + 3 * self.width * self.ff_width)

    def verdict_flops(self, *, tokens: int, kept: int = 0) -> float:
        """Return the FLOPs of one verdict over ``tokens`` new tokens behind ``kept`` ones whose keys are kept.

        Source: two per weight and token; attention four per channel, layer and (query, key) pair, causal.
        """
        pairs = tokens * kept + tokens * (tokens + 1) / 2
        return 2.0 * self.body_weights * tokens + 4.0 * self.layers * self.width * pairs

    def kept_bytes(self, tokens: int, *, number_bytes: int = 4) -> int:
        """Return the bytes of the keys and values of so many tokens."""
        return 2 * self.layers * self.kv_width * tokens * number_bytes


EMBEDDED = ModelShape(layers=30, width=576, kv_width=192, ff_width=1536)
"""SmolLM2-135M, the base of the embedded guardian."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device.

    Attributes:
        name: what it is.
        peak_flops: FLOP per second of a large matrix product in the format that is used here.
        fraction: share of the peak that the engine reaches with full batches, 0..1.
        measured: whether the fraction was measured on such a device; else it is an assumption.
    """

    name: str
    peak_flops: float
    fraction: float
    measured: bool

    def verdicts_per_s(self, shape: ModelShape, *, tokens: int, kept: int = 0) -> float:
        """Return how many verdicts per second the device gives when it is never idle."""
        return self.fraction * self.peak_flops / shape.verdict_flops(tokens=tokens, kept=kept)


def wait_probability(servers: int, load: float) -> float:
    """Return the probability that a request finds every server busy (Erlang C). ``load``: 0..1 of their capacity.

    Raises:
        ValueError: with a load of 1 or more the queue grows without end.
    """
    if not 0 <= load < 1:
        raise ValueError(f"load must be at least 0 and below 1, got {load}")
    offered = servers * load
    blocked = 1.0  # Erlang B, by its recursion over the number of servers
    for n in range(1, servers + 1):
        blocked = offered * blocked / (n + offered * blocked)
    return blocked / (1.0 - load * (1.0 - blocked))


def mean_wait_s(servers: int, load: float, *, service_s: float, variability: float = 1.0) -> float:
    """Return the mean time in the queue, requests served one by one.

    Args:
        servers: replicas behind one queue.
        load: 0..1 of their capacity.
        service_s: mean time that a replica needs for one request.
        variability: squared coefficient of variation of that time (0: always the same, 1: exponential).

    Source: Allen and Cunneen's approximation of G/G/c with Poisson arrivals.
    """
    return wait_probability(servers, load) * service_s / (servers * (1.0 - load)) * (1.0 + variability) / 2.0


def wait_quantile_s(quantile: float, servers: int, load: float, *, service_s: float, variability: float = 1.0) -> float:
    """Return a quantile of the time in the queue, its tail taken as exponential."""
    waits = wait_probability(servers, load)
    if waits <= 1.0 - quantile:
        return 0.0
    mean_of_waiters = mean_wait_s(servers, load, service_s=service_s, variability=variability) / waits
    return mean_of_waiters * math.log(waits / (1.0 - quantile))
