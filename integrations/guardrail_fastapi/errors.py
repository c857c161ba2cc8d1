"""Which HTTP status each of the library's errors is. Shared by everything here that speaks HTTP."""

from __future__ import annotations

import math
from dataclasses import dataclass

from guardrail_plugin import (
    BlockedError,
    ChainError,
    GuardianError,
    GuardianTimeout,
    GuardrailError,
    InferenceError,
    InputError,
    PoolClosed,
    PoolOverloaded,
    ReplicaDead,
)

RETRY_DEAD_S = 5.0
"""When to come back to a pool that is closed or has lost its replicas: a restart takes seconds."""


@dataclass(frozen=True, slots=True)
class HttpError:
    """An error as HTTP tells it. Holds no user text.

    Attributes:
        code: a word for programs (``overloaded``).
        message: a sentence for people.
        retry_after_s: when it is worth trying again; ``None``: not told.
    """

    status: int
    code: str
    message: str
    retry_after_s: float | None = None

    @property
    def headers(self) -> dict[str, str]:
        """``Retry-After``, in whole seconds, where there is one."""
        return {} if self.retry_after_s is None else {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}


_TABLE: tuple[tuple[type[GuardrailError], int, str, str], ...] = (
    (PoolOverloaded, 429, "overloaded", "The safety check is overloaded. Try again later."),
    (PoolClosed, 503, "unavailable", "The safety check is shutting down or not started."),
    (ReplicaDead, 503, "unavailable", "The safety check is not available."),
    (InferenceError, 500, "check_failed", "The safety check failed on this request."),
    (GuardianTimeout, 503, "check_timeout", "The safety check took too long."),
    (GuardianError, 503, "unavailable", "The safety check gave no verdict."),
    (ChainError, 500, "chain_failed", "The model's answer could not be read."),
    (BlockedError, 403, "content_filter", "Blocked by a safety check."),
)


def http_error(error: GuardrailError) -> HttpError:
    """Return what a client is told about an error.

    An ``InputError`` tells the caller what to mend (422). Errors about the server's own settings tell nothing (500).
    """
    if isinstance(error, InputError):
        return HttpError(422, "unreadable_input", str(error))
    for kind, status, code, message in _TABLE:
        if isinstance(error, kind):
            return HttpError(status, code, message, _retry_after_s(error, status))
    return HttpError(500, "internal_error", "The safety check is not set up correctly.")


def _retry_after_s(error: GuardrailError, status: int) -> float | None:
    if isinstance(error, PoolOverloaded):
        return error.retry_after_s
    return RETRY_DEAD_S if status == 503 else None
