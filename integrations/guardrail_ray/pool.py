"""The application's side: a pool whose models are all on the fleet."""

from __future__ import annotations

from functools import partial

from guardrail_plugin import ConfigError, InferencePool
from guardrail_plugin.pool import OnFull, Replica, ReplicaFactory
from guardrail_ray.replica import RayReplica


class RayReplicas:
    """Makes replicas for ``InferencePool.register``. The device that the pool names says nothing here.

    Args:
        app: name of the application in Ray Serve.
        timeout_s: how long a host may take for one batch.
    """

    def __init__(self, *, app: str = "guardrail", timeout_s: float = 30.0) -> None:
        self._build = partial(RayReplica, app=app, timeout_s=timeout_s)

    def __call__(self, device: str) -> Replica:
        """Connect."""
        return self._build()


class RayPool(InferencePool):
    """A pool that computes nothing here: every model that is registered with it is one of the fleet's.

    It keeps its own bounds, deadlines and counters, so one application cannot flood the fleet.

    Args:
        app: name of the application in Ray Serve.
        calls: batches that this process has under way at once.
        timeout_s: how long a host may take for one batch, waiting included.
        max_queued, max_queued_tokens, max_batch, max_batch_tokens, drain_s, on_full: as of ``InferencePool``.

    Raises:
        ConfigError: a value is out of range.
    """

    def __init__(
        self,
        *,
        app: str = "guardrail",
        calls: int = 8,
        timeout_s: float = 30.0,
        max_queued: int = 1024,
        max_queued_tokens: int = 262_144,
        max_batch: int = 64,
        max_batch_tokens: int = 8192,
        drain_s: float = 10.0,
        on_full: OnFull = "reject",
    ) -> None:
        if timeout_s <= 0:
            raise ConfigError(f"timeout_s must be positive, got {timeout_s!r}")
        super().__init__(
            devices=["ray"],
            replicas=calls,
            max_queued=max_queued,
            max_queued_tokens=max_queued_tokens,
            max_batch=max_batch,
            max_batch_tokens=max_batch_tokens,
            drain_s=drain_s,
            on_full=on_full,
        )
        self._replicas = RayReplicas(app=app, timeout_s=timeout_s)

    def register(self, model: str, factory: ReplicaFactory) -> None:
        """Make a model known; the fleet has its weights, so ``factory`` is not used."""
        super().register(model, self._replicas)
