"""How many hosts a fleet needs. Ray runs this in its controller, by value: nothing of the library is imported here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

QUEUED_TOKENS = "guardrail_queued_tokens"
BUSY = "guardrail_busy"


class QueuedTokensPolicy:
    """Scale on the tokens that wait in the hosts' queues, and on how busy their replicas are.

    The number of requests, which Ray counts by itself, says little: one long document weighs as much as a hundred chat
    messages. The queue alone says too little as well: it is empty both when nobody asks and when everything just fits.
    Ray applies its own delays and bounds to the answer.

    Args:
        target_tokens: waiting tokens that one host may have.
        target_busy: share of time that a host's replicas should compute, 0..1.
    """

    def __init__(self, *, target_tokens: float, target_busy: float) -> None:
        self.target_tokens = target_tokens
        self.target_busy = target_busy

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, float]]:
        """Return how many hosts are wanted."""
        metrics = context.aggregated_metrics or {}
        tokens = metrics.get(QUEUED_TOKENS, {})
        busy = metrics.get(BUSY, {})
        if not tokens:  # nobody has reported yet
            return float(context.target_num_replicas), {}
        return float(self.wanted(sum(tokens.values()), sum(busy.values()))), {}

    def wanted(self, queued_tokens: float, busy: float) -> int:
        """Return the hosts for so many waiting tokens, and so many hosts' worth of computing."""
        return max(1, math.ceil(queued_tokens / self.target_tokens), math.ceil(busy / self.target_busy))


def metrics(*, queued_tokens: float, busy: float) -> Mapping[str, float]:
    """Return what a host reports, under the names that the policy reads."""
    return {QUEUED_TOKENS: float(queued_tokens), BUSY: float(busy)}
