"""The shared inference pool. Never imports torch: replicas do, when their factory is called."""

from guardrail_plugin.pool.default import default_pool
from guardrail_plugin.pool.pool import InferencePool, OnFull
from guardrail_plugin.pool.protocol import (
    Decode,
    FinishReason,
    GenerateRequest,
    Generation,
    PlacedFactory,
    Replica,
    ReplicaFactory,
    Request,
    RowFailed,
    ScoreRequest,
    ScoreResult,
    Token,
)
from guardrail_plugin.pool.relay import Account, RelayReplica
from guardrail_plugin.pool.stats import Distribution, PoolStats, PrefixStats, SlotStats
from guardrail_plugin.pool.tenancy import on_behalf_of

__all__ = [
    "Account",
    "Decode",
    "Distribution",
    "FinishReason",
    "GenerateRequest",
    "Generation",
    "InferencePool",
    "OnFull",
    "PlacedFactory",
    "PoolStats",
    "PrefixStats",
    "RelayReplica",
    "Replica",
    "ReplicaFactory",
    "Request",
    "RowFailed",
    "ScoreRequest",
    "ScoreResult",
    "SlotStats",
    "Token",
    "default_pool",
    "on_behalf_of",
]
