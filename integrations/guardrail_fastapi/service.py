"""One pool, one guardian and the policy in force, for as long as an application runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from guardrail_fastapi.large_texts import LargeTexts
from guardrail_fastapi.policy_file import PolicySource, PolicyState, end
from guardrail_plugin import MLCOMMONS, Check, Guardian, GuardrailError, InferencePool, Policy, Taxonomy
from guardrail_plugin.core.dtype import Dtype
from guardrail_plugin.guardian.protocol import GuardianProtocol, taxonomy_of
from guardrail_plugin.observe import Observer, Observers

logger = logging.getLogger("guardrail_plugin.service")

WARM_UP_S = 120.0
"""Longest that the first check may take: weights are read in it."""


@dataclass(frozen=True, slots=True)
class GuardrailService:
    """What an application shares between its requests. Made by ``open_service``.

    Attributes:
        guardian: who judges.
        source: the policy in force.
        pool: where the guardian runs; ``None`` for one that brings its own.
        taxonomy: the hazards that the guardian names.
        observers: who is told of decisions.
    """

    guardian: GuardianProtocol
    source: PolicySource = field(default_factory=PolicySource)
    pool: InferencePool | None = None
    taxonomy: Taxonomy = MLCOMMONS
    observers: Observers = field(default_factory=Observers)

    @property
    def policy(self) -> Policy:
        """The policy in force. Take it once per request."""
        return self.source.policy

    def unready(self) -> str | None:
        """Tell why no verdict can be expected now; ``None``: it can."""
        if self.pool is None:
            return None
        stats = self.pool.stats()
        if stats.phase != "open":
            return f"the pool is {stats.phase}"
        if stats.slots and all(slot.phase == "retired" for slot in stats.slots):
            return "the pool has lost all its replicas"
        return None


@asynccontextmanager
async def open_service(
    *,
    guardian: GuardianProtocol | str | Path | None = None,
    policy: Policy | str | Path | None = None,
    pool: InferencePool | None = None,
    devices: Sequence[str] | None = None,
    dtype: Dtype = "auto",
    watch: bool = True,
    warm_up: bool = True,
    observers: Iterable[Observer] = (),
    on_policy: Callable[[PolicyState], None] | None = None,
) -> AsyncIterator[GuardrailService]:
    """Open a pool, put a guardian on it, read the policy and watch its file; close all of it at the end.

    The pool takes what is queued to its end before it closes (``drain_s``). A pool that is passed in is left open.

    Args:
        guardian: who judges; or a folder, hub id or TOML file that describes one; ``None``: the embedded one.
        policy: a policy, or the path of a file; ``None``: the guardian's calibrated thresholds.
        devices: of the pool that is opened.
        dtype: number format of a guardian that is loaded here; see ``Guardian.load``.
        warm_up: judge a word at the start, so that the first request does not wait for the weights.
        on_policy: told whenever another policy takes force, or a file does not.

    Raises:
        ModelNotFoundError, ConfigError, MissingDependencyError: weights, a sound policy file or an extra are missing.
        GuardrailError: the guardian gave no verdict at the start.

    Cancellation: closes, then passes.
    """
    async with AsyncExitStack() as stack:
        own = isinstance(guardian, str | Path) or guardian is None
        if own and pool is None:
            pool = await stack.enter_async_context(InferencePool(devices=devices))
        judge, taxonomy = await _guardian(guardian, pool, dtype)
        path = Path(policy) if isinstance(policy, str) else policy
        source = PolicySource(path, taxonomy=taxonomy, on_change=on_policy)
        if watch and source.path is not None:
            watching = asyncio.create_task(source.watch(), name="guardrail policy watch")
            stack.push_async_callback(end, watching)
        if warm_up:
            await _warm_up(judge)
        yield GuardrailService(LargeTexts(judge), source, pool, taxonomy, Observers(observers))


async def _guardian(
    guardian: GuardianProtocol | str | Path | None, pool: InferencePool | None, dtype: Dtype
) -> tuple[GuardianProtocol, Taxonomy]:
    if guardian is None or isinstance(guardian, str | Path):
        guardian = await asyncio.to_thread(Guardian.named, guardian, pool=pool, dtype=dtype)
    return guardian, taxonomy_of(guardian)


async def _warm_up(guardian: GuardianProtocol) -> None:
    [outcome] = await guardian.acheck_many([Check("Hello")], timeout_s=WARM_UP_S)
    if isinstance(outcome, GuardrailError):
        raise outcome
    logger.info("the guardian %s is ready", guardian.id)
