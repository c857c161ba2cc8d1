"""How a rail ends: the call goes on, gets a safeguard response instead, or raises."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from guardrail_plugin.core.errors import BlockedError, GuardrailError
from guardrail_plugin.core.policy import Ruling
from guardrail_plugin.core.verdict import Action, Rail, Verdict


@dataclass(frozen=True, slots=True)
class Allowed:
    """The call goes on.

    Attributes:
        verdict: ``None`` when it goes on unjudged, because ``on_failure`` or ``on_uncheckable`` says ``"allow"``.
        error: why there is no verdict.
        ruling: what the policy said about the verdict, and why.
    """

    rail: Rail
    verdict: Verdict | None = None
    error: GuardrailError | None = None
    ruling: Ruling | None = field(default=None, compare=False)  # follows from the verdict and the policy


@dataclass(frozen=True, slots=True)
class Blocked:
    """The caller gets ``response``; what stands behind the rail never sees the text. ``repr`` hides the response.

    Attributes:
        verdict: ``None`` when the text was blocked unjudged.
        action: what the policy ordered: ``"block"``, or ``"escalate"`` where nobody was there to ask, or who was
            asked said no.
        error: why there is no verdict.
        ruling: what the policy said about the verdict, and why.
    """

    rail: Rail
    response: str = field(repr=False)
    verdict: Verdict | None = None
    action: Action = "block"
    error: GuardrailError | None = None
    ruling: Ruling | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Edited:
    """A person who was asked wrote what goes on in place of the text. It is not judged again. ``repr`` hides it."""

    rail: Rail
    text: str = field(repr=False)
    verdict: Verdict | None = None
    error: GuardrailError | None = None
    ruling: Ruling | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Failed:
    """The caller gets an exception: a ``BlockedError``, or the failure itself under ``on_failure="raise"``."""

    rail: Rail
    error: GuardrailError
    verdict: Verdict | None = None
    action: Action = "block"
    ruling: Ruling | None = field(default=None, compare=False)


Outcome: TypeAlias = Allowed | Edited | Blocked | Failed


def describe(outcome: Outcome, *, policy_version: str) -> dict[str, object]:
    """Return an outcome as plain JSON types without any text: for traces, logs and ``response_metadata``.

    ``threshold`` is the guardian's own; ``policy_threshold`` the one that the policy went by, and ``acted_on`` what it
    acted on: ``"risk"``, the code of a hazard with a threshold of its own, ``"truncated"``, ``"incomplete"``, ``None``.
    """
    verdict: dict[str, object] = {"harmful": None, "risk": None, "hazard": None}
    if outcome.verdict is not None:
        verdict = outcome.verdict.as_dict()
    return {
        **verdict,
        "rail": outcome.rail,
        "action": _action(outcome),
        "policy_threshold": None if outcome.ruling is None else round(outcome.ruling.threshold, 6),
        "acted_on": None if outcome.ruling is None else outcome.ruling.hazard or outcome.ruling.cause,
        "policy_version": policy_version,
        "error": _error_name(outcome),
    }


def _action(outcome: Outcome) -> str:
    if isinstance(outcome, Allowed):
        return "allow"
    return "edit" if isinstance(outcome, Edited) else outcome.action


def _error_name(outcome: Outcome) -> str | None:
    error = outcome.error
    if isinstance(error, BlockedError):
        # The block is told by `action`; what counts here is why no verdict could be had, if so.
        error = error.__cause__ if isinstance(error.__cause__, GuardrailError) else None
    return None if error is None else type(error).__name__
