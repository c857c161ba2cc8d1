"""How much a caller may ask for: requests in progress, and requests per minute. A refusal costs nothing behind it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from guardrail_gateway.problems import Problem
from guardrail_gateway.settings import GatewaySettings

_RETRY_BUSY_S = 1
"""Requests end at any moment: there is no better estimate."""


@dataclass(slots=True)
class _Account:
    running: int = 0
    tokens: float = 0.0
    filled_at_s: float = 0.0


class Limits:
    """Admits requests. Used on one event loop. One account per key, so that there are as many as settings name."""

    def __init__(self, settings: GatewaySettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        self.running = 0
        self.refused = 0

    @contextmanager
    def admit(self, caller: str) -> Iterator[None]:
        """Count one request of a caller while it runs.

        Raises:
            Problem: 429 with ``Retry-After``; the gateway or this caller is at its limit.
        """
        account = self._account(caller)
        try:
            self._check(account)
        except Problem:
            self.refused += 1
            raise
        account.running += 1
        self.running += 1
        try:
            yield
        finally:
            account.running -= 1
            self.running -= 1

    def _account(self, caller: str) -> _Account:
        account = self._accounts.get(caller)
        if account is None:
            burst = float(self._settings.requests_per_minute or 0)
            account = self._accounts[caller] = _Account(tokens=burst, filled_at_s=self._clock())
        return account

    def _check(self, account: _Account) -> None:
        settings = self._settings
        if self.running >= settings.max_concurrent:
            raise _too_many("The gateway has too many requests in progress.", "overloaded", _RETRY_BUSY_S)
        if account.running >= settings.max_concurrent_per_key:
            raise _too_many("This key has too many requests in progress.", "concurrency_limit_exceeded", _RETRY_BUSY_S)
        rate = settings.requests_per_minute
        if rate is None:
            return
        now = self._clock()
        account.tokens = min(float(rate), account.tokens + (now - account.filled_at_s) * rate / 60)
        account.filled_at_s = now
        if account.tokens < 1:
            wait_s = math.ceil((1 - account.tokens) * 60 / rate)
            raise _too_many("This key has sent too many requests.", "rate_limit_exceeded", wait_s)
        account.tokens -= 1


def _too_many(message: str, code: str, retry_after_s: int) -> Problem:
    return Problem(429, code, message, headers={"Retry-After": str(retry_after_s)})
