"""What rails need of a guardian. The real one, the fakes of ``guardrail_plugin.testing`` and ensembles satisfy it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias, runtime_checkable

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import GuardrailError
from guardrail_plugin.core.hazards import MLCOMMONS, Taxonomy
from guardrail_plugin.core.verdict import RAILS, Rail, Verdict

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


@runtime_checkable
class ServesRails(Protocol):
    """A guardian that serves some rails only, and says which."""

    @property
    def rails(self) -> frozenset[Rail]:
        """The rails."""


def rails_of(guardian: GuardianProtocol) -> frozenset[Rail]:
    """Return the rails that a guardian serves: all, unless it says otherwise."""
    return guardian.rails if isinstance(guardian, ServesRails) else frozenset(RAILS)


@runtime_checkable
class NamesHazards(Protocol):
    """A guardian that says which hazards its verdicts can name."""

    @property
    def taxonomy(self) -> Taxonomy:
        """The hazards."""


def taxonomy_of(*guardians: GuardianProtocol) -> Taxonomy:
    """Return the hazards that guardians can name, each once: the MLCommons ones of a guardian that does not say."""
    known = (guardian.taxonomy if isinstance(guardian, NamesHazards) else MLCOMMONS for guardian in guardians)
    return Taxonomy.of({hazard.code: hazard for taxonomy in known for hazard in taxonomy}.values())
