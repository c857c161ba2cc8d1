"""Carry a judge's questions to the pool and its answers back, from sync or async code, within one time budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from guardrail_plugin.core.errors import GuardianError, PoolError
from guardrail_plugin.guardian.judging import Judging
from guardrail_plugin.guardian.protocol import CheckOutcome
from guardrail_plugin.pool.protocol import ScoreRequest

if TYPE_CHECKING:
    from guardrail_plugin.pool import InferencePool

_Step: TypeAlias = Callable[[], list[ScoreRequest]]
_LEAST_S = 0.001  # a budget that is spent still reaches the pool, which then says so


def ask(judging: Judging, pool: InferencePool, *, timeout_s: float | None) -> list[CheckOutcome]:
    """Run a judge's generator to its end. What the pool raises as a whole is thrown into it."""
    left = budget(timeout_s)
    step: _Step = partial(next, judging)
    while True:
        try:
            requests = step()
        except StopIteration as end:
            return _outcomes(end)
        try:
            step = partial(judging.send, pool.score_many(requests, timeout_s=left()))
        except (GuardianError, PoolError) as error:
            step = partial(judging.throw, error)


async def aask(judging: Judging, pool: InferencePool, *, timeout_s: float | None) -> list[CheckOutcome]:
    """Like ``ask``. Cancellation: queued work is withdrawn, running work is dropped when it ends."""
    left = budget(timeout_s)
    step: _Step = partial(next, judging)
    while True:
        try:
            requests = step()
        except StopIteration as end:
            return _outcomes(end)
        try:
            step = partial(judging.send, await pool.ascore_many(requests, timeout_s=left()))
        except (GuardianError, PoolError) as error:
            step = partial(judging.throw, error)


def budget(timeout_s: float | None) -> Callable[[], float | None]:
    """Return a function that tells how much is left of a time budget that begins now."""
    if timeout_s is None:
        return lambda: None
    until = time.monotonic() + timeout_s
    return lambda: max(until - time.monotonic(), _LEAST_S)


def _outcomes(end: StopIteration) -> list[CheckOutcome]:
    outcomes: list[CheckOutcome] = end.value
    return outcomes
