"""Keep large texts off the event loop: reading a megabyte takes most of a second, in which nobody else is served."""

from __future__ import annotations

import time
from collections.abc import Sequence
from weakref import WeakValueDictionary

import anyio.to_thread
from anyio import CapacityLimiter

from guardrail_plugin import Check
from guardrail_plugin.guardian.protocol import CheckOutcome, GuardianProtocol
from guardrail_plugin.guardian.wrapped import WrappedGuardian
from guardrail_plugin.pool.tenancy import current_tenant

LARGE_CHARS = 32_768
"""About 20 ms of reading (views and tokens: 0.7 s for a million characters on one CPU core)."""


_THREADS = 16
"""Of one tenant."""


class LargeTexts(WrappedGuardian):
    """A guardian whose async checks of large texts run in a thread.

    Every tenant has threads of its own: one that sends many large texts keeps neither another tenant waiting, nor the
    endpoints and bodies that are read in the application's threads.

    Does not: withdraw a large text from the pool when its caller is cancelled; it ends by itself, or at its timeout.
    """

    def __init__(self, guardian: GuardianProtocol) -> None:
        super().__init__(guardian)
        self._threads: WeakValueDictionary[str, CapacityLimiter] = WeakValueDictionary()

    def check_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Judge all in one pool batch."""
        return self._guardian.check_many(checks, timeout_s=timeout_s)

    async def acheck_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Judge all in one pool batch. Cancellation: passes at once."""
        if sum(len(check.text) for check in checks) < LARGE_CHARS:
            return await self._guardian.acheck_many(checks, timeout_s=timeout_s)
        asked = time.monotonic()

        def judged() -> list[CheckOutcome]:
            waited = time.monotonic() - asked
            left = None if timeout_s is None else max(timeout_s - waited, 0.001)
            return self._guardian.check_many(checks, timeout_s=left)

        threads = self._threads.setdefault(current_tenant(), CapacityLimiter(_THREADS))
        return await anyio.to_thread.run_sync(judged, abandon_on_cancel=True, limiter=threads)
