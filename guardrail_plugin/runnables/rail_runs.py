"""The rail as a child run of its wrapper, for callbacks, LangSmith and astream_events. Fields only, never text."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from langchain_core.callbacks import (
    AsyncCallbackManagerForChainRun,
    AsyncParentRunManager,
    CallbackManagerForChainRun,
    ParentRunManager,
)

from guardrail_plugin.core.errors import BlockedError, GuardrailError, InputError
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.core.verdict import Rail
from guardrail_plugin.flow import Allowed, Edited, Failed, Outcome, Steps, describe, run_batch_async, run_batch_sync
from guardrail_plugin.guardian.protocol import GuardianProtocol

logger = logging.getLogger("guardrail_plugin")

TAG = "guardrail"
"""Tag of every rail run: ``astream_events(exclude_tags=["guardrail"])`` leaves them out."""


@dataclass(frozen=True, slots=True)
class TracedRail:
    """A rail, and how it is told of in traces. Decides about many texts in one guardian batch."""

    guardian: GuardianProtocol
    policy: Policy
    rail: Rail

    def run(
        self,
        flows: Sequence[Steps[Outcome]],
        parents: Sequence[ParentRunManager],
        *,
        max_concurrency: int | None = None,
    ) -> list[Outcome]:
        """Run one flow for each text, each inside a child run of its parent."""
        runs = RailRuns(parents, rail=self.rail, policy_version=self.policy.version)
        try:
            outcomes = run_batch_sync(flows, self.guardian, max_concurrency=max_concurrency)
        except BaseException as error:
            runs.fail(error)
            raise
        runs.end(outcomes)
        log_unjudged(outcomes)
        return outcomes

    async def arun(
        self,
        flows: Sequence[Steps[Outcome]],
        parents: Sequence[AsyncParentRunManager],
        *,
        max_concurrency: int | None = None,
    ) -> list[Outcome]:
        """Like ``run``. Cancellation: passes to the guardian; the rail's runs end as failed."""
        runs = await AsyncRailRuns.start(parents, rail=self.rail, policy_version=self.policy.version)
        try:
            outcomes = await run_batch_async(flows, self.guardian, max_concurrency=max_concurrency)
        except BaseException as error:
            await runs.fail(error)
            raise
        await runs.end(outcomes)
        log_unjudged(outcomes)
        return outcomes


class RailRuns:
    """One child run per request of a batch, for those parents that somebody listens to."""

    def __init__(self, parents: Sequence[ParentRunManager], *, rail: Rail, policy_version: str) -> None:
        """Start the runs."""
        self._policy_version = policy_version
        self._runs: dict[int, CallbackManagerForChainRun] = {}
        for index, parent in enumerate(parents):
            # Without listeners a child run is pure cost, and this is the usual case.
            if parent.inheritable_handlers:
                child = parent.get_child(TAG)
                self._runs[index] = child.on_chain_start(None, {"rail": rail}, name=f"guardrail.{rail}")

    def end(self, outcomes: Sequence[Outcome], **fields: object) -> None:
        """End each run with its outcome's fields, and others that hold no text."""
        for index, run in self._left().items():
            failure = failure_of(outcomes[index])
            if failure is not None:
                run.on_chain_error(failure)
            else:
                run.on_chain_end({**describe(outcomes[index], policy_version=self._policy_version), **fields})

    def close(self, fields: dict[str, object]) -> None:
        """End all runs with given fields, for rails that judge many texts in one run."""
        for run in self._left().values():
            run.on_chain_end({**fields, "policy_version": self._policy_version})

    def fail(self, error: BaseException) -> None:
        """End all runs with what interrupted the batch."""
        for run in self._left().values():
            run.on_chain_error(error)

    def _left(self) -> dict[int, CallbackManagerForChainRun]:
        # Once: what goes wrong after a rail has ended is not the rail's.
        runs, self._runs = self._runs, {}
        return runs


class AsyncRailRuns:
    """Like ``RailRuns``. Cancellation: LangChain shields its own end-of-run callbacks."""

    def __init__(self, runs: dict[int, AsyncCallbackManagerForChainRun], *, policy_version: str) -> None:
        self._policy_version = policy_version
        self._runs = runs

    @classmethod
    async def start(cls, parents: Sequence[AsyncParentRunManager], *, rail: Rail, policy_version: str) -> AsyncRailRuns:
        """Start the runs."""
        heard = {index: parent for index, parent in enumerate(parents) if parent.inheritable_handlers}
        runs: list[AsyncCallbackManagerForChainRun] = []
        if heard:
            children = [parent.get_child(TAG) for parent in heard.values()]
            name = f"guardrail.{rail}"
            runs = await asyncio.gather(*(child.on_chain_start(None, {"rail": rail}, name=name) for child in children))
        return cls(dict(zip(heard, runs, strict=True)), policy_version=policy_version)

    async def end(self, outcomes: Sequence[Outcome], **fields: object) -> None:
        """End each run with its outcome's fields, and others that hold no text."""
        for index, run in self._left().items():
            failure = failure_of(outcomes[index])
            if failure is not None:
                await run.on_chain_error(failure)
            else:
                await run.on_chain_end({**describe(outcomes[index], policy_version=self._policy_version), **fields})

    async def close(self, fields: dict[str, object]) -> None:
        """End all runs with given fields, for rails that judge many texts in one run."""
        for run in self._left().values():
            await run.on_chain_end({**fields, "policy_version": self._policy_version})

    async def fail(self, error: BaseException) -> None:
        """End all runs with what interrupted the batch."""
        for run in self._left().values():
            await run.on_chain_error(error)

    def _left(self) -> dict[int, AsyncCallbackManagerForChainRun]:
        # Once: what goes wrong after a rail has ended is not the rail's.
        runs, self._runs = self._runs, {}
        return runs


def failure_of(outcome: Outcome) -> GuardrailError | None:
    """Return the error that ends a rail's run as failed, without its cause: a trace prints that, and what a replica or
    a guardian of others says may quote the text. A block is a decision, not a failure.
    """
    if not isinstance(outcome, Failed) or isinstance(outcome.error, BlockedError):
        return None
    told = copy.copy(outcome.error)
    told.__cause__ = told.__context__ = None
    return told


def log_unjudged(outcomes: Sequence[Outcome]) -> None:
    """Log every request that got no verdict: a guardian that is down must not go unnoticed."""
    for outcome in outcomes:
        if outcome.error is None or isinstance(outcome, Failed):
            continue
        level = logging.INFO if isinstance(outcome.error, InputError) else logging.WARNING
        action = "allow" if isinstance(outcome, Allowed | Edited) else outcome.action
        logger.log(level, "%s rail: no verdict, action %s: %s", outcome.rail, action, outcome.error)
