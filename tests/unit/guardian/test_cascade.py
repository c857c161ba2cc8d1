"""Cheap first: what goes on to the second guardian, what that costs, and what happens when there is no time for it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from guardrail_plugin import Check, ConfigError, Guardian, PoolOverloaded, Verdict
from guardrail_plugin.core.errors import GuardianTimeout
from guardrail_plugin.core.verdict import Rail
from guardrail_plugin.guardian.cascade import CascadeGuardian, OnSecondFailure
from guardrail_plugin.guardian.protocol import CheckOutcome
from guardrail_plugin.testing.guardians import ScriptedGuardian, verdict

RISKS = {"sure harm": verdict(risk=0.95), "sure fine": verdict(risk=0.02), "unsure": verdict(risk=0.5)}
CHECKS = [Check("sure harm"), Check("unsure one"), Check("sure fine"), Check("unsure two")]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed(ScriptedGuardian):
    """A guardian that takes a while on the test's clock, and keeps the budgets it was given."""

    def __init__(
        self, *args: object, clock: Clock, takes: float, error: Exception | None = None, **more: object
    ) -> None:
        super().__init__(*args, **more)  # type: ignore[arg-type]
        self.clock, self.takes, self.error = clock, takes, error
        self.budgets: list[float | None] = []

    def check_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        self.budgets.append(timeout_s)
        self.clock.now += self.takes
        if self.error is not None:
            raise self.error
        return super().check_many(checks, timeout_s=timeout_s)


def cascade(
    *, error: Exception | None = None, takes: float = 2.0, on_second_failure: OnSecondFailure = "error"
) -> tuple[CascadeGuardian, Timed]:
    clock = Clock()
    cheap = Timed(RISKS, clock=clock, takes=0.25, guardian_id="cheap")
    second = Timed(lambda _: verdict(risk=0.7), clock=clock, takes=takes, error=error, guardian_id="second")
    return CascadeGuardian(cheap, second, on_second_failure=on_second_failure, clock=clock), second


async def test_only_the_band_goes_on_and_the_cost_is_counted() -> None:
    for run in range(2):
        guardian, second = cascade()
        outcomes = guardian.check_many(CHECKS) if run else await guardian.acheck_many(CHECKS)
        assert [o.risk for o in outcomes if isinstance(o, Verdict)] == [0.95, 0.7, 0.02, 0.7]
        assert [check.text for check in second.checks] == ["unsure one", "unsure two"]
        stats = guardian.stats()
        assert (stats.checks, stats.escalated, stats.failed, stats.share_escalated) == (4, 2, 0, 0.5)
        assert (stats.cheap_s, stats.second_s) == (0.25, 2.0)
        assert {o.guardian_id for o in outcomes if isinstance(o, Verdict)} == {guardian.id}
        assert [o.seconds for o in outcomes if isinstance(o, Verdict)] == [0.25, 2.25, 0.25, 2.25]


@pytest.mark.parametrize("error", [GuardianTimeout(1.0), PoolOverloaded("full", retry_after_s=1.0)])
@pytest.mark.parametrize("answering", ["error", "cheap"])
def test_when_the_second_fails_the_outcome_is_closed_unless_asked_otherwise(
    error: Exception, answering: OnSecondFailure
) -> None:
    guardian, _ = cascade(error=error, on_second_failure=answering)
    outcomes = guardian.check_many(CHECKS)
    assert isinstance(outcomes[0], Verdict)
    if answering == "error":
        assert outcomes[1] is error
    else:
        assert isinstance(outcomes[1], Verdict)
        assert (outcomes[1].risk, outcomes[1].guardian_id) == (0.5, guardian.id)
        assert [o.stand_in for o in outcomes if isinstance(o, Verdict)] == [False, True, False, True]
    assert guardian.stats().failed == 2


def test_the_time_budget_is_shared_and_a_hopeless_second_is_not_asked() -> None:
    guardian, second = cascade()
    guardian.check_many(CHECKS, timeout_s=5.0)
    assert second.budgets == [4.75]
    outcomes = guardian.check_many(CHECKS, timeout_s=1.0)  # it is known to take 2 s
    assert len(second.budgets) == 1
    assert isinstance(outcomes[1], GuardianTimeout)
    assert isinstance(outcomes[0], Verdict)


def test_settings_are_checked() -> None:
    for band in ((0.9, 0.1), (-0.1, 0.5), (0.5, 0.5)):
        with pytest.raises(ConfigError, match="band is"):
            Guardian.cascade(ScriptedGuardian(RISKS), ScriptedGuardian(RISKS), band=band)


def test_responses_are_the_cheap_guardians() -> None:
    guardian, _ = cascade()
    assert guardian.respond(Check("x"), None) == "I can't help with that."


def test_a_slow_spell_does_not_shut_the_second_out_for_ever() -> None:
    guardian, second = cascade(takes=30.0)
    guardian.check_many(CHECKS)  # it read its weights, say
    second.takes = 0.5
    for _ in range(20):
        outcomes = guardian.check_many(CHECKS, timeout_s=5.0)
    assert isinstance(outcomes[1], Verdict)
    assert outcomes[1].risk == 0.7


class ChecksAlone:
    """A second guardian that serves the input rail alone."""

    rails: frozenset[Rail] = frozenset({"input"})

    def __init__(self, inner: ScriptedGuardian) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


async def test_where_the_second_does_not_serve_the_cheap_verdict_stands() -> None:
    second = ChecksAlone(ScriptedGuardian(lambda _: verdict(risk=0.7)))
    guardian = CascadeGuardian(ScriptedGuardian(RISKS), second)  # type: ignore[arg-type]
    checks = [Check("unsure", rail="document"), Check("unsure", rail="input")]
    for outcomes in (guardian.check_many(checks), await guardian.acheck_many(checks)):
        assert [one.risk for one in outcomes if isinstance(one, Verdict)] == [0.5, 0.7]
