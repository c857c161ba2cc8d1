"""Several guardians as one: each judges every text on the rails that it serves, and their verdicts are combined."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import ConfigError, GuardianError, GuardrailError, PoolError
from guardrail_plugin.core.hazards import Taxonomy
from guardrail_plugin.core.verdict import Rail, Verdict
from guardrail_plugin.guardian.protocol import CheckOutcome, GuardianProtocol, rails_of, taxonomy_of

Combine: TypeAlias = Literal["max", "mean", "min"] | Callable[[Sequence[Verdict]], Verdict]
"""How verdicts become one. ``max``: harmful where any says so; ``min``: where all do; ``mean``: by the mean risk."""


class EnsembleGuardian:
    """Asks every member and combines. Safe to share between threads and event loops.

    ``max`` and ``min`` take the verdict that is furthest above, or below, its own guardian's threshold, in log-odds:
    members need not mean the same by a risk. ``mean`` averages risks and thresholds.

    Closed: a member without a verdict makes the outcome an error, unless ``max`` has a harmful verdict already; a
    policy that would let that one pass treats it as a failure. With ``max`` a policy acts on the strictest member's.
    The first member that serves the rail writes the safeguard responses.

    Raises:
        ConfigError: fewer than two members, or an unknown ``combine``.
    """

    def __init__(self, members: Sequence[GuardianProtocol], *, combine: Combine = "max") -> None:
        if len(members) < 2:
            raise ConfigError(f"an ensemble needs at least two guardians, got {len(members)}")
        if not callable(combine) and combine not in _COMBINE:
            raise ConfigError(f"combine is one of {', '.join(_COMBINE)} or a function, got {combine!r}")
        self.members = tuple(members)
        self._any_harm = combine == "max"
        self._combine: Callable[[Sequence[Verdict]], Verdict] = combine if callable(combine) else _COMBINE[combine]
        word = getattr(combine, "__name__", "custom") if callable(combine) else combine
        self._id = f"{word}({', '.join(member.id for member in members)})"

    @property
    def id(self) -> str:
        """How they are combined, and the members' ids."""
        return self._id

    @property
    def rails(self) -> frozenset[Rail]:
        """Rails that any member serves."""
        return frozenset().union(*(rails_of(member) for member in self.members))

    @property
    def taxonomy(self) -> Taxonomy:
        """The hazards that any of them can name."""
        return taxonomy_of(*self.members)

    def __repr__(self) -> str:
        return f"EnsembleGuardian({self._id!r})"

    def check_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Ask one member after the other; each gets what is left of the time."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        asked = [self._asked(member, checks) for member in self.members]
        given: list[list[CheckOutcome]] = []
        for member, places in zip(self.members, asked, strict=True):
            left = None if until is None else max(until - time.monotonic(), 0.001)
            try:
                given.append(member.check_many([checks[i] for i in places], timeout_s=left) if places else [])
            except (GuardianError, PoolError) as error:  # its part alone has no verdict: another may have found harm
                given.append([error] * len(places))
        return self._outcomes(checks, asked, given)

    async def acheck_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Ask all members at the same time. Cancellation: all of them are cancelled."""
        asked = [self._asked(member, checks) for member in self.members]
        tasks = [
            asyncio.ensure_future(_aask(member, [checks[i] for i in places], timeout_s))
            for member, places in zip(self.members, asked, strict=True)
        ]
        try:
            given = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return self._outcomes(checks, asked, given)

    def respond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
        """Have the first member that serves the rail write the response."""
        return self._writer(check).respond(check, verdict, timeout_s=timeout_s)

    async def arespond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
        """Like ``respond``."""
        return await self._writer(check).arespond(check, verdict, timeout_s=timeout_s)

    def _writer(self, check: Check) -> GuardianProtocol:
        return next((m for m in self.members if check.rail in rails_of(m)), self.members[0])

    def _asked(self, member: GuardianProtocol, checks: Sequence[Check]) -> list[int]:
        served = rails_of(member)
        return [i for i, check in enumerate(checks) if check.rail in served]

    def _outcomes(
        self, checks: Sequence[Check], asked: Sequence[Sequence[int]], given: Sequence[Sequence[CheckOutcome]]
    ) -> list[CheckOutcome]:
        outcomes: list[list[CheckOutcome]] = [[] for _ in checks]
        for member, places, answers in zip(self.members, asked, given, strict=True):
            if len(answers) != len(places):
                raise GuardianError(f"{member.id} gave {len(answers)} answers to {len(places)} checks")
            for place, answer in zip(places, answers, strict=True):
                outcomes[place].append(answer)
        return [self._combined(check, mine) for check, mine in zip(checks, outcomes, strict=True)]

    def _combined(self, check: Check, outcomes: Sequence[CheckOutcome]) -> CheckOutcome:
        if not outcomes:
            return GuardianError(f"no member of the ensemble judges the {check.rail} rail")
        verdicts = [one for one in outcomes if isinstance(one, Verdict)]
        failure = next((one for one in outcomes if isinstance(one, GuardrailError)), None)
        if failure is not None and not (self._any_harm and any(one.harmful for one in verdicts)):
            return failure
        made = _signed(self._combine(verdicts), self._id, verdicts)
        if not self._any_harm:
            return made
        members = tuple(one for verdict in verdicts for one in (verdict, *verdict.members))
        return replace(made, members=members, incomplete=made.incomplete or failure is not None)


def margin(verdict: Verdict) -> float:
    """Return how far a risk is above its threshold, in log-odds."""
    return _log_odds(verdict.risk) - _log_odds(verdict.threshold)


async def _aask(member: GuardianProtocol, checks: Sequence[Check], timeout_s: float | None) -> list[CheckOutcome]:
    """Return a member's answers; where it gives none at all, its error for each check."""
    if not checks:
        return []
    try:
        return await member.acheck_many(checks, timeout_s=timeout_s)
    except (GuardianError, PoolError) as error:
        return [error] * len(checks)


def _furthest(verdicts: Sequence[Verdict]) -> Verdict:
    return max(verdicts, key=margin)


def _nearest(verdicts: Sequence[Verdict]) -> Verdict:
    return min(verdicts, key=margin)


def _mean(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the mean of the worst parts and, as members, of the parts in which each other harm is likeliest."""
    parts = [(one, *one.members) for one in verdicts]
    codes = sorted({member.hazard for one in verdicts for member in one.members if member.hazard is not None})
    others = [[max(mine, key=lambda part: part.hazards.get(code, 0.0)) for mine in parts] for code in codes]
    if any(member.hazard is None for one in verdicts for member in one.members):
        others.append(
            [max(one.members, key=lambda part: (part.hazard is None, part.risk), default=one) for one in verdicts]
        )
    return replace(_mean_of(verdicts), members=tuple(_mean_of(other) for other in others))


def _mean_of(verdicts: Sequence[Verdict]) -> Verdict:
    n = len(verdicts)
    risk = min(1.0, math.fsum(one.risk for one in verdicts) / n)
    threshold = min(1.0, math.fsum(one.threshold for one in verdicts) / n)
    codes = {code for one in verdicts for code in one.hazards}
    hazards = {code: math.fsum(one.hazards.get(code, 0.0) for one in verdicts) / n for code in sorted(codes)}
    top = _furthest(verdicts)
    named = max(hazards, key=hazards.__getitem__, default=top.hazard)
    mixed = replace(top, harmful=risk >= threshold, risk=risk, threshold=threshold, hazards=hazards, hazard=named)
    return replace(mixed, members=())


def _signed(verdict: Verdict, guardian_id: str, verdicts: Sequence[Verdict]) -> Verdict:
    return replace(
        verdict,
        guardian_id=guardian_id,
        seconds=max(one.seconds for one in verdicts),
        windows=sum(one.windows for one in verdicts),
        truncated=any(one.truncated for one in verdicts),
        incomplete=any(one.incomplete for one in verdicts),
        stand_in=any(one.stand_in for one in verdicts),
    )


def _log_odds(p: float) -> float:
    clipped = min(max(p, 1e-9), 1 - 1e-9)
    return math.log(clipped) - math.log1p(-clipped)


_COMBINE: Mapping[str, Callable[[Sequence[Verdict]], Verdict]] = {"max": _furthest, "mean": _mean, "min": _nearest}
