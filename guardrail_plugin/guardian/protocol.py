"""What rails need of a guardian. The real one, the fakes of ``guardrail_plugin.testing`` and ensembles satisfy it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import GuardrailError
from guardrail_plugin.core.verdict import Verdict

CheckOutcome: TypeAlias = Verdict | GuardrailError


class GuardianProtocol(Protocol):
    """Judges texts and writes safeguard responses. Safe to share between threads and event loops."""

    @property
    def id(self) -> str:
        """Name and version of the weights; part of every verdict."""

    def check_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Judge all in one pool batch. A check that fails yields its error in its place; the others are answered."""

    async def acheck_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Like ``check_many``. Cancellation: queued work is withdrawn, running work is dropped when it ends."""

    def respond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
        """Write the safeguard response. Never raises for model failures: the written fallback answers then."""

    async def arespond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
        """Like ``respond``."""
