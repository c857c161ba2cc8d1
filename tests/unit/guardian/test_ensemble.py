"""Several guardians as one: how verdicts combine, and what happens when a member has none."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda

from guardrail_plugin import CachedGuardian, Check, ConfigError, Guardian, GuardianError, Policy, Verdict, guard
from guardrail_plugin.core.errors import GuardianTimeout
from guardrail_plugin.core.policy import HazardRule
from guardrail_plugin.core.verdict import Rail
from guardrail_plugin.guardian.protocol import CheckOutcome
from guardrail_plugin.testing.guardians import ScriptedGuardian, verdict

ERROR = GuardianTimeout(1.0)


def member(outcome: CheckOutcome, name: str = "m") -> ScriptedGuardian:
    return ScriptedGuardian(lambda _: outcome, guardian_id=name, respond=f"from {name}")


@dataclass
class InjectionOnly:
    """A member that serves one rail."""

    inner: ScriptedGuardian

    @property
    def id(self) -> str:
        return self.inner.id

    @property
    def rails(self) -> frozenset[Rail]:
        return frozenset({"document"})

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)


LOW, HIGH = verdict(risk=0.2, hazard="S1"), verdict(risk=0.8, hazard="S2", threshold=0.7)
# 0.3 is far above its own threshold of 0.05: risks of different guardians do not mean the same.
SHY = verdict(risk=0.3, hazard="S9", threshold=0.05)


@pytest.mark.parametrize(
    ("combine", "given", "harmful", "risk", "hazard"),
    [
        ("max", (LOW, HIGH), True, 0.8, "S2"),
        ("min", (LOW, HIGH), False, 0.2, "S1"),
        ("mean", (LOW, HIGH), False, 0.5, "S2"),
        ("max", (HIGH, SHY), True, 0.3, "S9"),
        (lambda given: given[0], (LOW, HIGH), False, 0.2, "S1"),
    ],
)
async def test_verdicts_combine(
    combine: object, given: tuple[Verdict, ...], harmful: bool, risk: float, hazard: str
) -> None:
    both = Guardian.ensemble(*map(member, given), combine=combine)  # type: ignore[arg-type]
    for [outcome] in (both.check_many([Check("x")]), await both.acheck_many([Check("x")])):
        assert isinstance(outcome, Verdict)
        assert (outcome.harmful, outcome.hazard) == (harmful, hazard)
        assert outcome.risk == pytest.approx(risk)
        assert outcome.guardian_id == both.id


@pytest.mark.parametrize(
    ("combine", "given", "closed"),
    [("max", (LOW, ERROR), True), ("max", (HIGH, ERROR), False), ("mean", (HIGH, ERROR), True)],
)
def test_a_member_without_a_verdict_closes_unless_another_has_found_harm(
    combine: str, given: tuple[CheckOutcome, ...], closed: bool
) -> None:
    [outcome] = Guardian.ensemble(*map(member, given), combine=combine).check_many([Check("x")])  # type: ignore[arg-type]
    assert (outcome is ERROR) == closed


def test_members_are_asked_on_their_rails_alone() -> None:
    harm, injection = member(LOW, "harm"), member(HIGH, "injection")
    both = Guardian.ensemble(InjectionOnly(injection), harm)  # type: ignore[arg-type]
    outcomes = both.check_many([Check("a"), Check("b", rail="document")])
    assert [outcome.harmful for outcome in outcomes if isinstance(outcome, Verdict)] == [False, True]
    assert [check.text for check in injection.checks] == ["b"]
    assert both.respond(Check("a"), None) == "from harm"
    alone = Guardian.ensemble(*[InjectionOnly(injection)] * 2)  # type: ignore[list-item]
    [nobody] = alone.check_many([Check("a")])
    assert isinstance(nobody, GuardianError)


async def test_cancelling_reaches_every_member() -> None:
    cancelled: list[str] = []

    class Slow(ScriptedGuardian):
        async def acheck_many(self, checks: object, *, timeout_s: float | None = None) -> list[CheckOutcome]:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(self.id)
            return []

    slow = [Slow(lambda _: LOW, guardian_id=name) for name in "ab"]
    task = asyncio.create_task(Guardian.ensemble(*slow).acheck_many([Check("x")]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert sorted(cancelled) == ["a", "b"]


def test_a_cache_serves_the_rails_of_what_it_wraps() -> None:
    narrow = InjectionOnly(member(HIGH))
    assert CachedGuardian(narrow).rails == {"document"}  # type: ignore[arg-type]
    assert Guardian.ensemble(CachedGuardian(narrow), narrow).rails == {"document"}  # type: ignore[arg-type]


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="at least two"):
        Guardian.ensemble(member(LOW))
    with pytest.raises(ConfigError, match="combine is one of max, mean, min"):
        Guardian.ensemble(member(LOW), member(LOW), combine="maximum")  # type: ignore[arg-type]


class Raising(ScriptedGuardian):
    """A member that raises where it could answer each check with an error."""

    def check_many(self, checks: object, *, timeout_s: float | None = None) -> list[CheckOutcome]:
        raise ERROR


@pytest.mark.parametrize(("other", "closed"), [(LOW, True), (HIGH, False)])
async def test_a_member_that_raises_is_one_without_a_verdict(other: Verdict, closed: bool) -> None:
    both = Guardian.ensemble(Raising({}), member(other))
    for [outcome] in (both.check_many([Check("x")]), await both.acheck_many([Check("x")])):
        assert (outcome is ERROR) == closed


@pytest.mark.parametrize("on_failure", ["block", "allow"])
def test_a_harm_that_the_policy_lets_pass_does_not_stand_in_for_a_missing_verdict(on_failure: str) -> None:
    one = verdict(risk=0.8, hazard="S12")
    [found] = Guardian.ensemble(member(one), member(ERROR)).check_many([Check("x")])
    assert isinstance(found, Verdict)
    assert found.harmful
    assert found.incomplete
    for policy in (
        Policy(threshold=0.9, on_failure=on_failure),
        Policy(hazards={"S12": HazardRule(action="allow")}, on_failure=on_failure),
    ):
        assert policy.action(found) == on_failure
    assert Policy(on_failure=on_failure).action(found) == "block"  # it acts on the harm itself


def test_an_exempted_hazard_of_one_member_does_not_hide_what_another_found() -> None:
    both = Guardian.ensemble(member(verdict(risk=0.9, hazard="S12")), member(verdict(risk=0.8, hazard="S1")))
    [found] = both.check_many([Check("x")])
    assert isinstance(found, Verdict)
    assert found.hazard == "S12"
    assert Policy(hazards={"S12": HazardRule(action="allow")}).action(found) == "block"
    assert Policy(hazards={c: HazardRule(action="allow") for c in ("S12", "S1")}).action(found) == "allow"


async def test_a_verdict_that_lacks_a_member_is_a_failure_where_it_would_pass() -> None:
    harmful = Guardian.ensemble(member(verdict(risk=0.8, hazard="S12")), member(ERROR))
    policy = Policy(hazards={"S12": HazardRule(action="allow")})
    chain = RunnableLambda(lambda _: "the chain ran")
    safe = guard(chain, guardian=harmful, policy=policy, output_type=str)
    assert "the chain ran" not in await safe.ainvoke("x")
    strict = policy.model_copy(update={"on_failure": "raise"})
    told = guard(chain, guardian=harmful, policy=strict, output_type=str)
    with pytest.raises(GuardianError, match="no verdict"):
        await told.ainvoke("x")


@pytest.mark.parametrize("combine", ["max", "mean", "min"])
@pytest.mark.parametrize("other", ["S1", None])
def test_an_allowed_hazard_hides_no_other_part_of_the_text(combine: Any, other: str | None) -> None:
    part = replace(verdict(risk=0.95, hazard="S1"), hazard=other, hazards={} if other is None else {"S1": 0.95})
    whole = replace(verdict(risk=0.97, hazard="S12"), members=(part,))
    joint = Guardian.ensemble(member(whole), member(whole, "n"), combine=combine)
    [outcome] = joint.check_many([Check("both")])
    assert isinstance(outcome, Verdict)
    assert outcome.hazard == "S12"
    assert Policy(hazards={"S12": HazardRule(action="allow")}).action(outcome) == "block"
