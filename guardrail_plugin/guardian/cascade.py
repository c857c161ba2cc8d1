"""A cheap guardian first, a second one where the first is unsure; what that costs is counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import ConfigError, GuardianError, GuardianTimeout, PoolError
from guardrail_plugin.core.hazards import Taxonomy
from guardrail_plugin.core.verdict import Rail, Verdict
from guardrail_plugin.guardian.protocol import CheckOutcome, GuardianProtocol, rails_of, taxonomy_of

OnSecondFailure: TypeAlias = Literal["error", "cheap"]
"""What answers when the second guardian cannot: nobody (the policy's ``on_failure`` applies), or the cheap one."""

_SMOOTHING = 0.2


@dataclass(frozen=True, slots=True)
class CascadeStats:
    """What a cascade has done so far.

    Attributes:
        checks: texts judged by the cheap guardian.
        escalated: of these, texts in the band, which the second guardian was asked about.
        failed: of the escalated, those it gave no verdict on, in time or at all.
        cheap_s, second_s: wall time spent waiting for each, in seconds.
    """

    checks: int = 0
    escalated: int = 0
    failed: int = 0
    cheap_s: float = 0.0
    second_s: float = 0.0

    @property
    def share_escalated(self) -> float:
        """Escalated share of the checks, 0..1."""
        return self.escalated / self.checks if self.checks else 0.0


class CascadeGuardian:
    """Judges with the cheap guardian; a risk inside the band goes on to the second. Safe to share between threads.

    The time budget is shared: the second guardian gets what the first has left, and is not asked at all when its usual
    time is more than that: a running mean, which shrinks whenever it is not asked, so that it is tried again. On rails
    that the cheap guardian does not serve, the second one is asked; on rails that the second one does not, the cheap
    verdict stands.

    Args:
        band: ``(low, high)``: the cheap verdict stands below ``low`` and from ``high`` on.
        on_second_failure: ``"error"`` (default, closed) or ``"cheap"``: the cheap verdict, by its own threshold.
            It is marked as ``stand_in``, which a ``CachedGuardian`` does not keep.
        clock: monotonic seconds.

    Raises:
        ConfigError: the band is empty or out of range.
    """

    def __init__(
        self,
        cheap: GuardianProtocol,
        second: GuardianProtocol,
        *,
        band: tuple[float, float] = (0.1, 0.9),
        on_second_failure: OnSecondFailure = "error",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        low, high = band
        if not 0.0 <= low < high <= 1.0:
            raise ConfigError(f"band is (low, high) with 0 <= low < high <= 1, got {band!r}")
        if on_second_failure not in ("error", "cheap"):
            raise ConfigError(f'on_second_failure is "error" or "cheap", got {on_second_failure!r}')
        self.cheap = cheap
        self.second = second
        self.band = band
        self._cheap_answers = on_second_failure == "cheap"
        self._clock = clock
        self._lock = threading.Lock()
        self._stats = CascadeStats()
        self._usual_s = 0.0

    @property
    def id(self) -> str:
        """Both guardians' ids and the band."""
        return f"cascade({self.cheap.id} -> {self.second.id}, {self.band[0]:g}..{self.band[1]:g})"

    @property
    def rails(self) -> frozenset[Rail]:
        """Rails that either serves."""
        return rails_of(self.cheap) | rails_of(self.second)

    @property
    def taxonomy(self) -> Taxonomy:
        """The hazards that any of them can name."""
        return taxonomy_of(self.cheap, self.second)

    def __repr__(self) -> str:
        return f"CascadeGuardian({self.id!r})"

    def stats(self) -> CascadeStats:
        """Return what the cascade has done so far."""
        with self._lock:
            return self._stats

    def check_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Judge all with the cheap guardian, and those in the band with the second, in one batch each."""
        run = _Run(self, checks, timeout_s)
        if run.cheap:
            run.took_cheap(self.cheap.check_many(run.of(run.cheap), timeout_s=run.left()))
        if run.escalated and run.in_time():
            try:
                run.took_second(self.second.check_many(run.of(run.escalated), timeout_s=run.left()))
            except (GuardianError, PoolError) as error:
                run.lost(error)
        return run.finish()

    async def acheck_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Like ``check_many``. Cancellation: passes to whichever guardian is at work."""
        run = _Run(self, checks, timeout_s)
        if run.cheap:
            run.took_cheap(await self.cheap.acheck_many(run.of(run.cheap), timeout_s=run.left()))
        if run.escalated and run.in_time():
            try:
                run.took_second(await self.second.acheck_many(run.of(run.escalated), timeout_s=run.left()))
            except (GuardianError, PoolError) as error:
                run.lost(error)
        return run.finish()

    def respond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
        """Have the cheap guardian write the response."""
        return self.cheap.respond(check, verdict, timeout_s=timeout_s)

    async def arespond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
        """Like ``respond``."""
        return await self.cheap.arespond(check, verdict, timeout_s=timeout_s)

    def _unsure(self, outcome: CheckOutcome) -> bool:
        return isinstance(outcome, Verdict) and self.band[0] <= outcome.risk < self.band[1]

    def _not_asked(self) -> None:
        """Expect less of the second guardian's time: one slow spell must not keep it from being asked for ever."""
        with self._lock:
            self._usual_s *= 1 - _SMOOTHING

    def _count(self, done: CascadeStats) -> None:
        with self._lock:
            was = self._stats
            self._stats = CascadeStats(
                checks=was.checks + done.checks,
                escalated=was.escalated + done.escalated,
                failed=was.failed + done.failed,
                cheap_s=was.cheap_s + done.cheap_s,
                second_s=was.second_s + done.second_s,
            )
            if done.second_s:
                self._usual_s += (done.second_s - self._usual_s) * (_SMOOTHING if self._usual_s else 1.0)


class _Run:
    """One batch on its way through a cascade: the bookkeeping that the sync and the async driver share."""

    def __init__(self, cascade: CascadeGuardian, checks: Sequence[Check], timeout_s: float | None) -> None:
        served = rails_of(cascade.cheap)
        self.cheap = [i for i, check in enumerate(checks) if check.rail in served]
        self.escalated = [i for i, check in enumerate(checks) if check.rail not in served]
        self._cascade, self._checks, self._timeout_s = cascade, checks, timeout_s
        self._started = self._mark = cascade._clock()
        self._found: dict[int, CheckOutcome] = {}
        self._second: dict[int, CheckOutcome] = {}
        self._cheap_s = self._second_s = 0.0

    def of(self, places: Sequence[int]) -> list[Check]:
        """Return the checks at these places."""
        return [self._checks[i] for i in places]

    def left(self) -> float | None:
        """Return what is left of the time budget, in seconds."""
        if self._timeout_s is None:
            return None
        return max(self._timeout_s - (self._cascade._clock() - self._started), 0.001)

    def in_time(self) -> bool:
        """Tell whether the second guardian can be expected to answer within what is left."""
        left = self.left()
        if left is None or left > self._cascade._usual_s:
            return True
        self._cascade._not_asked()
        self.lost(GuardianTimeout(self._timeout_s or 0.0))
        return False

    def took_cheap(self, outcomes: Sequence[CheckOutcome]) -> None:
        """Note the cheap guardian's answers, and which of them are unsure."""
        self._found |= dict(zip(self.cheap, outcomes, strict=True))
        served = rails_of(self._cascade.second)
        unsure = [i for i in self.cheap if self._cascade._unsure(self._found[i])]
        self.escalated += [i for i in unsure if self._checks[i].rail in served]
        self._cheap_s = self._lap()

    def took_second(self, outcomes: Sequence[CheckOutcome]) -> None:
        """Note the second guardian's answers."""
        self._second = dict(zip(self.escalated, outcomes, strict=True))
        self._second_s = self._lap()

    def lost(self, error: GuardianError | PoolError) -> None:
        """Note that the second guardian answered none."""
        self._second = dict.fromkeys(self.escalated, error)

    def finish(self) -> list[CheckOutcome]:
        """Return the outcomes and count them."""
        failed = [i for i, outcome in self._second.items() if not isinstance(outcome, Verdict)]
        outcomes = {**self._found, **self._second}
        if self._cascade._cheap_answers:
            found = {i: self._found.get(i) for i in failed}
            outcomes |= {i: replace(v, stand_in=True) for i, v in found.items() if isinstance(v, Verdict)}
        self._cascade._count(
            CascadeStats(len(self._checks), len(self.escalated), len(failed), self._cheap_s, self._second_s)
        )
        return [self._signed(outcomes[i], escalated=i in self._second) for i in range(len(self._checks))]

    def _signed(self, outcome: CheckOutcome, *, escalated: bool) -> CheckOutcome:
        if not isinstance(outcome, Verdict):
            return outcome
        seconds = self._cheap_s + (self._second_s if escalated else 0.0)
        return replace(outcome, guardian_id=self._cascade.id, seconds=seconds)

    def _lap(self) -> float:
        now = self._cascade._clock()
        took, self._mark = now - self._mark, now
        return took
