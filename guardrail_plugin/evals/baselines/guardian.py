"""Any binary classifier as a guardian, so that it goes through the same evaluation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import GuardianError, GuardrailError, InputError
from guardrail_plugin.core.verdict import Verdict
from guardrail_plugin.guardian.fallbacks import fallback
from guardrail_plugin.guardian.protocol import CheckOutcome

THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class Risk:
    """A classifier's answer: the probability of harm, and whether part of the text was left out."""

    value: float
    truncated: bool = False


class Classifier(Protocol):
    """Gives each check a risk."""

    @property
    def id(self) -> str:
        """Name and version, training data included: scores are reused under it."""

    def risks(self, checks: Sequence[Check]) -> Sequence[Risk | GuardrailError]:
        """Return one answer per check, in order. Checks hold text that is not blank."""


class BaselineGuardian:
    """A classifier behind the guardian's interface. Acts at risk 0.5 and names no hazard.

    Does not write responses of its own: ``respond`` gives the written fallback.
    """

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier

    @property
    def id(self) -> str:
        """``baseline-`` and the classifier's name."""
        return f"baseline-{self._classifier.id}"

    def check_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Judge all at once. ``timeout_s`` is not kept: a baseline is for measuring, not for serving."""
        started = time.monotonic()
        blank = InputError("there is no text to check: it is empty or only white space")
        answers = iter(self._classifier.risks([check for check in checks if check.text.strip()]))
        risks = [next(answers) if check.text.strip() else blank for check in checks]
        seconds = time.monotonic() - started
        return [self._outcome(check, risk, seconds) for check, risk in zip(checks, risks, strict=True)]

    async def acheck_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Like ``check_many``, in a thread. Cancellation: the thread ends its batch, the answers are dropped."""
        return await asyncio.to_thread(self.check_many, checks, timeout_s=timeout_s)

    def respond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
        """Return the written response."""
        return fallback(verdict.hazard if verdict is not None else None)

    async def arespond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
        """Like ``respond``. Never suspends, so it cannot be cancelled."""
        return self.respond(check, verdict, timeout_s=timeout_s)

    def _outcome(self, check: Check, risk: Risk | GuardrailError, seconds: float) -> CheckOutcome:
        if isinstance(risk, GuardrailError):
            return risk
        if not 0.0 <= risk.value <= 1.0:
            return GuardianError("the baseline's answer is no probability")
        return Verdict(
            harmful=risk.value >= THRESHOLD,
            risk=risk.value,
            threshold=THRESHOLD,
            hazards={},
            hazard=None,
            rail=check.rail,
            guardian_id=self.id,
            seconds=seconds,
            truncated=risk.truncated,
        )
