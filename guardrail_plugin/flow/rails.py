"""The rails' logic: one generator per rail. No I/O, so that every driver runs the same decisions."""

from __future__ import annotations

from dataclasses import dataclass

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import BlockedError, GuardianError, GuardrailError, InputError, PoolError
from guardrail_plugin.core.policy import OnFailure, Policy
from guardrail_plugin.core.verdict import Rail, Verdict
from guardrail_plugin.flow.effects import Classify, Respond, Steps
from guardrail_plugin.flow.outcomes import Allowed, Blocked, Failed, Outcome

BLOCKED_RESPONSE = "I can't help with this request."
UNJUDGED_RESPONSE = "I can't answer right now, because the safety check could not be completed. Please try again later."
UNCHECKABLE_RESPONSE = "I can only answer messages that contain text. Please say in words what you need."


@dataclass(frozen=True, slots=True)
class Uncheckable:
    """An input of a known form in which there is no text to judge: empty, or images only.

    Attributes:
        reason: what was found instead, and what the caller can do. Holds no user text.
    """

    reason: str


def input_rail(
    subject: Check | Uncheckable | InputError, *, policy: Policy, on_uncheckable: OnFailure = "block"
) -> Steps[Outcome]:
    """Decide what happens to one input.

    An ``InputError`` as subject (no way to tell what to judge: the caller's mistake) always ends in ``Failed``.
    ``policy.on_failure`` covers a guardian or pool that gave no verdict; ``on_uncheckable`` covers inputs without
    text. Any other error, such as a missing dependency, ends in ``Failed``: nothing goes on.

    ``action="escalate"`` blocks until an escalation handler exists; the outcome keeps the word.
    """
    if isinstance(subject, InputError):
        return Failed("input", subject)
    if isinstance(subject, Uncheckable):
        return _unjudged(InputError(subject.reason), rail="input", policy=policy, on_uncheckable=on_uncheckable)
    answer = yield Classify(subject, policy.timeout_s)
    if not isinstance(answer, Verdict):
        error = answer if isinstance(answer, GuardrailError) else GuardianError("the guardian answered with text")
        return _unjudged(error, rail=subject.rail, policy=policy, on_uncheckable=on_uncheckable)
    return (yield from _act(subject, answer, policy=policy))


def _act(check: Check, verdict: Verdict, *, policy: Policy) -> Steps[Outcome]:
    action = policy.action(verdict)
    if action == "allow":
        return Allowed(check.rail, verdict)
    if policy.on_block == "raise":
        return Failed(check.rail, BlockedError(verdict, rail=check.rail), verdict, action)
    response = yield Respond(check, verdict, policy.timeout_s)
    if not isinstance(response, str) or not response.strip():
        # The verdict stands whatever became of the responder.
        response = BLOCKED_RESPONSE
    return Blocked(check.rail, response, verdict, action)


def _unjudged(error: GuardrailError, *, rail: Rail, policy: Policy, on_uncheckable: OnFailure) -> Outcome:
    if isinstance(error, InputError):
        order, response = on_uncheckable, UNCHECKABLE_RESPONSE
    elif isinstance(error, GuardianError | PoolError):
        order, response = policy.on_failure, UNJUDGED_RESPONSE
    else:
        return Failed(rail, error)
    if order == "allow":
        return Allowed(rail, error=error)
    if order == "raise":
        return Failed(rail, error)
    if policy.on_block == "raise":
        blocked = BlockedError(None, rail=rail)
        blocked.__cause__ = error
        return Failed(rail, blocked)
    return Blocked(rail, response, error=error)
