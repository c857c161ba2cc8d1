"""One host of the fleet: a Ray Serve replica around our own pool, which batches, bounds and orders the work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Protocol

from guardrail_plugin import Guardian, InferencePool
from guardrail_plugin.core.errors import ConfigError, GuardrailError, PoolClosed
from guardrail_plugin.pool import Account, GenerateRequest, PoolStats, ScoreRequest, ScoreResult
from guardrail_ray.autoscaling import metrics
from guardrail_ray.wire import Failed, to_wire

Config = Mapping[str, object]
"""JSON: what the models are. A new one is a rolling update."""

_DRAIN_S = 30.0


class LoadModels(Protocol):
    """Registers models with a new pool that is open already, and warms them up."""

    def __call__(self, pool: InferencePool, config: Config, /) -> None: ...


def load_guardians(pool: InferencePool, config: Config) -> None:
    """Load the guardians that ``config["guardians"]`` lists: folders, hub ids, or ``"default"``.

    Raises:
        ConfigError: there is no such list. Else as ``Guardian.load``.
    """
    names = config.get("guardians")
    if not isinstance(names, list) or not names:
        raise ConfigError('config["guardians"] must be a list of folders, hub ids or "default"')
    for name in names:
        Guardian.load(None if name == "default" else str(name), pool=pool).check("warm up")


def _least(wanted_s: float | None, most_s: float) -> float:
    return most_s if wanted_s is None else min(wanted_s, most_s)


class PoolHost:
    """Ray Serve calls it. Deploy it with ``fleet``.

    Args:
        load: registers the models.
        open_pool: makes the pool.
    """

    def __init__(self, load: LoadModels, open_pool: Callable[[], InferencePool]) -> None:
        self._load = load
        self._open_pool = open_pool
        self._pool: InferencePool | None = None
        self._last = (time.monotonic(), 0.0)

    async def reconfigure(self, config: Config) -> None:
        """Take up a configuration: load its models into a new pool, change over, let the old one finish its work.

        Needs the memory of both for a moment. When the new models cannot be loaded the old ones stay.
        """
        fresh = self._open_pool()
        fresh.open()
        try:
            await asyncio.to_thread(self._load, fresh, config)
        except BaseException:
            await fresh.aclose(drain_s=0.0)
            raise
        old, self._pool = self._pool, fresh
        self._last = (time.monotonic(), 0.0)
        if old is not None:
            await old.aclose(drain_s=_DRAIN_S)

    async def score(
        self, requests: Sequence[ScoreRequest], timeout_s: float, accounts: Sequence[Account] = ()
    ) -> list[ScoreResult | Failed]:
        """Score a batch of one application among those of the others. Never raises: errors stand in the list.

        Args:
            timeout_s: for all of it.
            accounts: the tenant of each request and what it may still take; empty: nobody's, ``timeout_s``.
        """
        groups: dict[Account, list[int]] = {}
        for place, account in enumerate(accounts or [Account()] * len(requests)):
            groups.setdefault(account, []).append(place)
        outcomes: dict[int, ScoreResult | Failed] = {}
        answers = [
            self._score([requests[place] for place in places], account.tenant, _least(account.timeout_s, timeout_s))
            for account, places in groups.items()
        ]
        for places, found in zip(groups.values(), await asyncio.gather(*answers), strict=True):
            outcomes.update(zip(places, found, strict=True))
        return [outcomes[place] for place in range(len(requests))]

    async def _score(
        self, requests: Sequence[ScoreRequest], tenant: str, timeout_s: float
    ) -> list[ScoreResult | Failed]:
        while True:
            pool = self._current()
            try:
                outcomes = await pool.ascore_many(requests, timeout_s=timeout_s, tenant=tenant)
            except GuardrailError as error:
                outcomes = [error] * len(requests)
            changed = pool is not self._pool
            if not (changed and any(isinstance(outcome, PoolClosed) for outcome in outcomes)):
                return [outcome if isinstance(outcome, ScoreResult) else to_wire(outcome) for outcome in outcomes]

    async def stream(
        self, request: GenerateRequest, timeout_s: float, account: Account | None = None
    ) -> AsyncGenerator[int | str | Failed, None]:
        """Yield token ids as they are decoded, then the finish reason or an error.

        Cancellation: stops the decode before its next step.
        """
        made = 0
        account = account or Account()
        left_s = _least(account.timeout_s, timeout_s)
        tokens = self._current().astream(request, timeout_s=left_s, tenant=account.tenant)
        try:
            async for token_id in tokens:
                made += 1
                yield token_id
            yield "length" if made >= request.max_new_tokens else "stop"
        except GuardrailError as error:
            yield to_wire(error)
        finally:
            await tokens.aclose()

    async def stats(self) -> PoolStats:
        """Return the counters of this host's pool."""
        return self._current().stats()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Tell Ray what the policy scales on: waiting tokens now, and the share of time computed since last asked."""
        stats = self._current().stats()
        (then, before), now = self._last, time.monotonic()
        self._last = (now, stats.execution_s)
        slots = max(1, len(stats.slots))
        busy = (stats.execution_s - before) / (max(now - then, 1e-3) * slots)
        return dict(metrics(queued_tokens=stats.queued_tokens, busy=min(1.0, max(0.0, busy))))

    def check_health(self) -> None:
        """Raise when no thread of the pool could be kept alive: Ray replaces the host."""
        if all(slot.phase == "retired" for slot in self._current().stats().slots):
            raise RuntimeError("no worker thread of this pool could be kept alive")

    async def __del__(self) -> None:
        """Ray awaits this at a graceful stop, after the last request has been answered."""
        if self._pool is not None:
            await self._pool.aclose(drain_s=0.0)

    def _current(self) -> InferencePool:
        if self._pool is None:
            raise PoolClosed("this host has not been configured yet")
        return self._pool
