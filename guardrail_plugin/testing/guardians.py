"""Guardians that answer from a script: for tests of rails, chains and policies, without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import GuardrailError
from guardrail_plugin.core.verdict import Rail, Verdict
from guardrail_plugin.guardian.protocol import CheckOutcome

Rule: TypeAlias = Callable[[Check], CheckOutcome] | Mapping[str, CheckOutcome]
Responder: TypeAlias = Callable[[Check, Verdict | None], str]


def verdict(
    *,
    risk: float = 0.0,
    hazard: str | None = None,
    threshold: float = 0.5,
    rail: Rail = "input",
    guardian_id: str = "scripted",
    truncated: bool = False,
) -> Verdict:
    """Make a verdict as a guardian would: all risk on one hazard, harmful from the threshold on."""
    return Verdict(
        harmful=risk >= threshold,
        risk=risk,
        threshold=threshold,
        hazards={hazard: risk} if hazard is not None else {},
        hazard=hazard,
        rail=rail,
        guardian_id=guardian_id,
        truncated=truncated,
    )


class ScriptedGuardian:
    """A guardian that follows a rule and keeps what it was asked.

    It keeps the texts it was given, so it belongs in tests only.

    Attributes:
        batches: the checks of every ``check_many`` call, sync and async, in order.
        responses: every check for which a safeguard response was asked.
    """

    def __init__(
        self, rule: Rule, *, respond: str | Responder = "I can't help with that.", guardian_id: str = "scripted"
    ) -> None:
        """Build it.

        Args:
            rule: a function from a check to a verdict or an error, or a mapping from a part of the text to one: the
                first key that occurs in the text answers, and text without any is harmless. Verdicts are given the
                check's rail.
            respond: the safeguard response, or a function that writes it. What it raises is raised.
        """
        self._rule = rule
        self._respond = respond
        self._id = guardian_id
        self.batches: list[list[Check]] = []
        self.responses: list[Check] = []

    @property
    def id(self) -> str:
        """The name given at construction."""
        return self._id

    @property
    def checks(self) -> list[Check]:
        """Every check it was asked for, in order."""
        return [check for batch in self.batches for check in batch]

    def check_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Answer each check by the rule."""
        self.batches.append(list(checks))
        return [self._answer(check) for check in checks]

    async def acheck_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Like ``check_many``. Never suspends, so it cannot be cancelled."""
        return self.check_many(checks, timeout_s=timeout_s)

    def respond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
        """Write the scripted response."""
        self.responses.append(check)
        return self._respond(check, verdict) if callable(self._respond) else self._respond

    async def arespond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
        """Like ``respond``. Never suspends, so it cannot be cancelled."""
        return self.respond(check, verdict, timeout_s=timeout_s)

    def _answer(self, check: Check) -> CheckOutcome:
        if not isinstance(self._rule, Mapping):
            outcome = self._rule(check)
        else:
            keys = (key for key in self._rule if key in check.text)
            key = next(keys, None)
            outcome = verdict() if key is None else self._rule[key]
        if isinstance(outcome, GuardrailError):
            return outcome
        return _at_rail(outcome, check.rail)


def _at_rail(given: Verdict, rail: Rail) -> Verdict:
    return given if given.rail == rail else replace(given, rail=rail)


def allow_all() -> ScriptedGuardian:
    """Return a guardian that finds everything harmless."""
    return ScriptedGuardian(lambda _: verdict(), guardian_id="allow_all")


def block_all(*, hazard: str = "S1") -> ScriptedGuardian:
    """Return a guardian that finds everything harmful."""
    return ScriptedGuardian(lambda _: verdict(risk=1.0, hazard=hazard), guardian_id="block_all")
