"""The shared inference pool. Never imports torch: replicas do, when their factory is called."""

from guardrail_plugin.pool.default import default_pool
from guardrail_plugin.pool.pool import InferencePool, OnFull
from guardrail_plugin.pool.protocol import (
    Decode,
    FinishReason,
    GenerateRequest,
    Generation,
    Replica,
    ReplicaFactory,
    Request,
    ScoreRequest,
    ScoreResult,
    Token,
)
from guardrail_plugin.pool.stats import PoolStats, SlotStats

__all__ = [
    "Decode",
    "FinishReason",
    "GenerateRequest",
    "Generation",
    "InferencePool",
    "OnFull",
    "PoolStats",
    "Replica",
    "ReplicaFactory",
    "Request",
    "ScoreRequest",
    "ScoreResult",
    "SlotStats",
    "Token",
    "default_pool",
]
