"""Pure records of how a slot is doing: memory budget, circuit per model. Time is injected."""

from __future__ import annotations

from guardrail_plugin.core.errors import ReplicaDead

# A budget cut by an out-of-memory error grows back by half after this many batches in a row that fitted.
REGROW_AFTER = 16

# Deaths in a row, of batches that were tried for the first time, after which a model counts as broken on a slot. One
# request that kills every replica does not get here: it is retried alone, and retries are not counted.
TRIP_AFTER = 3

FIRST_BACKOFF_S = 0.5
LAST_BACKOFF_S = 30.0


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means "too much at once". Knows torch's errors without importing torch."""
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and "out of memory" in str(error).lower()


def kills_replica(error: BaseException) -> bool:
    """Tell "the engine is dead" from "this request failed"."""
    return isinstance(error, ReplicaDead) or not isinstance(error, Exception)


class TokenBudget:
    """Tokens, padding counted, that one batch may hold: halved when memory runs out, grown back slowly.

    Attributes:
        tokens: now.
        most: when all is well.
    """

    def __init__(self, most: int) -> None:
        self.tokens = most
        self.most = most
        self._fitted = 0

    def shrink(self, cost: int) -> None:
        """A batch of this cost did not fit."""
        self.tokens = max(1, min(self.tokens, cost) // 2)
        self._fitted = 0

    def fitted(self) -> None:
        """A batch went through."""
        if self.tokens < self.most:
            self._fitted += 1
            if self._fitted >= REGROW_AFTER:
                self.tokens = min(self.most, self.tokens + self.tokens // 2 + 1)
                self._fitted = 0


class Circuit:
    """Whether one slot can run one model. Open: not now. After a pause, doubled each time, one try is let through."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.open_until: float | None = None
        self._failures = 0
        self._deaths = 0

    def is_open(self, now: float) -> bool:
        """Tell whether the pause still lasts."""
        return self.open_until is not None and now < self.open_until

    def failed(self, error: BaseException, now: float) -> None:
        """No replica could be built, or each one died."""
        self.error = error
        self._failures += 1
        self.open_until = now + min(LAST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(self._failures - 1, 16))

    def died(self, error: BaseException, now: float) -> None:
        """A replica died on requests that had not been tried before."""
        self._deaths += 1
        if self._deaths >= TRIP_AFTER:
            self.failed(error, now)

    def answered(self) -> None:
        """A request was answered: all is well."""
        self.error = None
        self.open_until = None
        self._failures = self._deaths = 0
