"""A replica that is a whole fleet: what an application's pool sends it, some host of the fleet computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue

from guardrail_plugin.core.errors import GuardrailError, InferenceError, ReplicaDead
from guardrail_plugin.pool import (
    Account,
    Decode,
    FinishReason,
    GenerateRequest,
    RowFailed,
    ScoreRequest,
    ScoreResult,
    Token,
)
from guardrail_ray.line import Line
from guardrail_ray.wire import Failed, from_wire

_GLANCE_S = 0.02  # how long a step waits for tokens; verdicts of this pool's slot wait as long at most
_REASONS: tuple[FinishReason, ...] = ("stop", "length", "cancelled")


class RayReplica:
    """Speaks the replica protocol to an application of Ray Serve made by ``fleet``. Used by one thread.

    Tenant and deadline of each request travel with it, so that hosts share themselves out among the tenants of all
    applications and turn away what would come too late.

    Errors come over typed: ``PoolOverloaded`` with its ``retry_after_s``, ``InferenceError`` for a request on which the
    model fails, ``ReplicaDead`` when the host is gone; then the pool asks again, and Ray leads it to another host.

    Args:
        app: name of the application in Ray Serve.
        timeout_s: how long a host may take for one batch, waiting included.

    Raises:
        ReplicaDead: the application cannot be reached.
    """

    def __init__(self, *, app: str = "guardrail", timeout_s: float = 30.0) -> None:
        self._line = Line(app, timeout_s=timeout_s)
        self._timeout_s = timeout_s
        self._answered: dict[tuple[ScoreRequest, str], ScoreResult | Failed] = {}  # by request and tenant

    def score(self, batch: Sequence[ScoreRequest]) -> list[ScoreResult]:
        """Score on nobody's account. See ``score_for``."""
        return self.score_for(batch, [Account()] * len(batch))

    def score_for(self, batch: Sequence[ScoreRequest], accounts: Sequence[Account]) -> list[ScoreResult]:
        """Score on one host. The pool halves a batch in which one request failed: what is known is not asked again."""
        asked = [(request, account.tenant) for request, account in zip(batch, accounts, strict=True)]
        known = [self._answered.pop(one) for one in asked if one in self._answered]
        if len(known) != len(batch):
            known = self._line.score(batch, accounts)
            self._answered.clear()
        failures = [outcome for outcome in known if isinstance(outcome, Failed)]
        if failures:
            if len(batch) > 1:
                self._answered.update(zip(asked, known, strict=True))
            if len({outcome.kind if isinstance(outcome, Failed) else None for outcome in known}) > 1:
                # The pool halves the batch. Were one tenant's overload raised here, it would be told to all of them.
                raise InferenceError("requests of one batch ended in different ways")
            raise from_wire(failures[0])
        return [outcome for outcome in known if isinstance(outcome, ScoreResult)]

    def start(self, batch: Sequence[GenerateRequest]) -> Decode:
        """Begin a decode per request, on nobody's account."""
        return self.start_for(batch, [Account()] * len(batch))

    def start_for(self, batch: Sequence[GenerateRequest], accounts: Sequence[Account]) -> Decode:
        """Begin a decode per request; hosts batch them with those of other applications."""
        return RayDecode(self._line, batch, accounts, timeout_s=self._timeout_s)

    def close(self) -> None:
        """Hang up."""
        self._line.close()


class RayDecode:
    """Streams of several rows, read as they come."""

    def __init__(
        self, line: Line, batch: Sequence[GenerateRequest], accounts: Sequence[Account], *, timeout_s: float
    ) -> None:
        self._news: SimpleQueue[tuple[int, int | str | GuardrailError]] = SimpleQueue()
        self._glances = max(1, round(timeout_s / _GLANCE_S))
        self._idle = 0
        self._failed: deque[RowFailed] = deque()
        self._rows: dict[int, Future[None]] = {
            row: line.stream(request, account, partial(self._tell, row))
            for row, (request, account) in enumerate(zip(batch, accounts, strict=True))
        }

    def step(self) -> list[Token]:
        """Return what has come, at least an empty token, so that the pool's slot is never held up for long.

        Raises:
            ReplicaDead: a host is gone, or nothing has come for too long.
            RowFailed: with what a row failed with.
        """
        if self._failed:
            raise self._failed.popleft()
        if not self._rows:
            return []
        tokens: list[Token] = []
        try:
            entry = self._news.get(timeout=_GLANCE_S)
            while True:
                tokens.extend(self._token(*entry))
                entry = self._news.get_nowait()
        except Empty:
            pass
        if self._failed and not tokens:
            raise self._failed.popleft()
        self._idle = 0 if tokens else self._idle + 1
        if self._idle > self._glances:
            raise ReplicaDead("no host of the fleet goes on with a decode")
        return tokens or [Token(next(iter(self._rows)), None)] if self._rows or tokens else []

    def cancel(self, row: int) -> None:
        """Stop one row on its host."""
        stream = self._rows.pop(row, None)
        if stream is not None:
            stream.cancel()

    def close(self) -> None:
        """Stop all rows."""
        for row in list(self._rows):
            self.cancel(row)

    def _tell(self, row: int, news: int | str | GuardrailError) -> None:
        self._news.put((row, news))

    def _token(self, row: int, news: int | str | GuardrailError) -> list[Token]:
        if row not in self._rows:  # cancelled meanwhile
            return []
        if isinstance(news, ReplicaDead):
            raise news
        if isinstance(news, GuardrailError):
            del self._rows[row]
            self._failed.append(RowFailed(row, news))
            return []
        if isinstance(news, int):
            return [Token(row, news)]
        del self._rows[row]
        return [Token(row, None, next(reason for reason in _REASONS if reason == news))]
