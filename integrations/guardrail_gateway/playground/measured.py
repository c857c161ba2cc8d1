"""Where a question's time goes: in the pool's queue, the guardian, the safeguard response, the model behind."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from guardrail_gateway.bodies import JsonObject, as_object
from guardrail_gateway.upstream import Stream
from guardrail_plugin import Check, Verdict
from guardrail_plugin.guardian.protocol import CheckOutcome, GuardianProtocol
from guardrail_plugin.pool.stats import PoolStats


class TimedGuardian:
    """A guardian that notes what one request's checks and responses cost.

    Attributes:
        checks: batches of checks.
        check_s: until their verdicts, queueing included.
        queue_s: of that, the wait in the pool's queue: the mean of all requests whose wait ended meanwhile, which are
            others' too where the pool is busy. ``None``: there is no pool to ask.
        respond_s: until safeguard responses were written.
    """

    def __init__(self, guardian: GuardianProtocol, *, stats: Callable[[], PoolStats] | None = None) -> None:
        self._guardian = guardian
        self._stats = stats
        self.checks = 0
        self.check_s = 0.0
        self.queue_s: float | None = None if stats is None else 0.0
        self.respond_s = 0.0

    @property
    def id(self) -> str:
        """The guardian's."""
        return self._guardian.id

    def check_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Judge; not measured, for the gateway has only async calls."""
        return self._guardian.check_many(checks, timeout_s=timeout_s)

    async def acheck_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Judge. Cancellation: passes to the guardian."""
        started, (count, total) = time.monotonic(), self._waits()
        try:
            return await self._guardian.acheck_many(checks, timeout_s=timeout_s)
        finally:
            self.checks += 1
            self.check_s += time.monotonic() - started
            now_count, now_total = self._waits()
            if self.queue_s is not None and now_count > count:
                self.queue_s += (now_total - total) / (now_count - count)

    def respond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
        """Write the safeguard response; not measured."""
        return self._guardian.respond(check, verdict, timeout_s=timeout_s)

    async def arespond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
        """Write the safeguard response. Cancellation: passes to the guardian."""
        started = time.monotonic()
        try:
            return await self._guardian.arespond(check, verdict, timeout_s=timeout_s)
        finally:
            self.respond_s += time.monotonic() - started

    def _waits(self) -> tuple[int, float]:
        if self._stats is None:
            return 0, 0.0
        waits = self._stats().waits
        return waits.count, waits.total


class CountedStream:
    """An upstream's stream that counts what comes, and how long it was waited for.

    Attributes:
        received: characters of the answer so far.
        waited_s: time in which nothing but the model was waited for.
    """

    def __init__(self, source: Stream, *, on_chunk: Callable[[int], None]) -> None:
        self._source = source
        self._on_chunk = on_chunk
        self.received = 0
        self.waited_s = 0.0

    @property
    def headers(self) -> Mapping[str, str]:
        """The source's."""
        return self._source.headers

    def __aiter__(self) -> AsyncIterator[JsonObject]:
        return self

    async def __anext__(self) -> JsonObject:
        started = time.monotonic()
        try:
            chunk = await self._source.__anext__()
        finally:
            self.waited_s += time.monotonic() - started
        self.received += len(text_of(chunk))
        self._on_chunk(self.received)
        return chunk

    async def aclose(self) -> None:
        """Tell the model to stop."""
        await self._source.aclose()


def text_of(chunk: Mapping[str, object]) -> str:
    """Return the text that a chunk adds to the answer."""
    choices = chunk.get("choices")
    delta = as_object(as_object(choices[0]).get("delta")) if isinstance(choices, list) and choices else {}
    content = delta.get("content")
    return content if isinstance(content, str) else ""
