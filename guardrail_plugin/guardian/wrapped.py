"""What a guardian around another one hands on as it is."""

from __future__ import annotations

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.hazards import Taxonomy
from guardrail_plugin.core.verdict import Rail, Verdict
from guardrail_plugin.guardian.protocol import GuardianProtocol, rails_of, taxonomy_of


class WrappedGuardian:
    """Identity and safeguard responses of the wrapped guardian. Who inherits adds the checks."""

    def __init__(self, guardian: GuardianProtocol) -> None:
        self._guardian = guardian

    @property
    def id(self) -> str:
        """The wrapped guardian's id."""
        return self._guardian.id

    @property
    def rails(self) -> frozenset[Rail]:
        """The rails that the wrapped guardian serves."""
        return rails_of(self._guardian)

    @property
    def taxonomy(self) -> Taxonomy:
        """The hazards that the wrapped guardian can name."""
        return taxonomy_of(self._guardian)

    def respond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
        """Have the wrapped guardian write the safeguard response."""
        return self._guardian.respond(check, verdict, timeout_s=timeout_s)

    async def arespond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
        """Like ``respond``. Cancellation: passes to the guardian."""
        return await self._guardian.arespond(check, verdict, timeout_s=timeout_s)
