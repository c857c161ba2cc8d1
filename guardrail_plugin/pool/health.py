"""Pure records of how a slot is doing: memory budget, circuit per model, measured pace. Time is injected."""

from __future__ import annotations

from guardrail_plugin.core.errors import ReplicaDead

# A budget cut by an out-of-memory error grows back by half after this many batches in a row that fitted.
REGROW_AFTER = 16

# Deaths in a row, of batches that were tried for the first time, after which a model counts as broken on a slot. One
# request that kills every replica does not get here: it is retried alone, and retries are not counted.
TRIP_AFTER = 3

FIRST_BACKOFF_S = 0.5
LAST_BACKOFF_S = 30.0

RETRY_AFTER_UNMEASURED_S = 1.0
RETRY_AFTER_LEAST_S = 0.05
RETRY_AFTER_MOST_S = 60.0

_TOO_LATE = 0.005  # share of what is let in that may take longer than it has
_CAUTION_STEP = 0.1
_MOST_CAUTION = 4.0

_PACE_DECAY = 0.9  # weight of the past after each batch: about the last ten batches count
_PACE_MIN_BATCHES = 3


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


class Caution:
    """How many times longer than estimated answers take in the slowest percent: follows that quantile as it moves.

    A batch ends later than its first row, and neighbours in length overtake: an estimate of the mean, taken as it is,
    would let in many that come too late.

    Source: Robbins and Monro's stochastic approximation of a quantile.
    """

    def __init__(self) -> None:
        self.factor = 1.0

    def saw(self, *, estimated_s: float, took_s: float, in_time: bool) -> None:
        """Note an answer, or that there was none in time."""
        longer = not in_time or took_s > self.factor * estimated_s
        step = _CAUTION_STEP if longer else -_CAUTION_STEP * _TOO_LATE / (1 - _TOO_LATE)
        self.factor = min(max(1.0, self.factor + step), _MOST_CAUTION)


class Pace:
    """Tokens per second of one slot while work is waiting. Small batches say nothing about that."""

    def __init__(self) -> None:
        self._batches = 0
        self._tokens = 0.0
        self._seconds = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """Count one batch that left others waiting, or that was large."""
        self._batches += 1
        self._tokens = self._tokens * _PACE_DECAY + tokens
        self._seconds = self._seconds * _PACE_DECAY + seconds

    def lost(self, seconds: float) -> None:
        """Count time that went to decodes while verdicts waited."""
        self._seconds += seconds

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens per second of one slot; ``None`` until it has been measured."""
        measured = self._batches >= _PACE_MIN_BATCHES and self._seconds > 0
        return self._tokens / self._seconds if measured else None

    def retry_after_s(self, tokens: int, slots: int) -> float:
        """Return when to try again, given what waits."""
        wait_s = self.wait_s(tokens, slots)
        after_s = RETRY_AFTER_UNMEASURED_S if wait_s is None else wait_s
        return min(max(after_s, RETRY_AFTER_LEAST_S), RETRY_AFTER_MOST_S)

    def wait_s(self, tokens: int, slots: int) -> float | None:
        """Return how long this many waiting tokens take on so many slots; ``None`` until it has been measured."""
        pace = self.tokens_per_s
        return tokens / (pace * slots) if pace and slots > 0 else None
