"""Keep large texts off the event loop: reading a megabyte takes most of a second, in which nobody else is served."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import anyio.to_thread

from guardrail_plugin import Check
from guardrail_plugin.guardian.protocol import CheckOutcome
from guardrail_plugin.guardian.wrapped import WrappedGuardian

LARGE_CHARS = 32_768
"""About 20 ms of reading (views and tokens: 0.7 s for a million characters on one CPU core)."""


class LargeTexts(WrappedGuardian):
    """A guardian whose async checks of large texts run in a thread.

    Does not: withdraw a large text from the pool when its caller is cancelled; it ends by itself, or at its timeout.
    """

    def check_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Judge all in one pool batch."""
        return self._guardian.check_many(checks, timeout_s=timeout_s)

    async def acheck_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Judge all in one pool batch. Cancellation: passes at once."""
        if sum(len(check.text) for check in checks) < LARGE_CHARS:
            return await self._guardian.acheck_many(checks, timeout_s=timeout_s)
        work = partial(self._guardian.check_many, checks, timeout_s=timeout_s)
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
