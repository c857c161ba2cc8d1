"""The rails' logic: one generator per rail. No I/O, so that every driver runs the same decisions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import BlockedError, GuardianError, GuardrailError, InputError, PoolError
from guardrail_plugin.core.policy import STRICTNESS, OnFailure, Policy, Ruling
from guardrail_plugin.core.verdict import Rail, Verdict
from guardrail_plugin.flow.effects import (
    Answer,
    Classify,
    ClassifyMany,
    Escalate,
    Judged,
    OnEscalate,
    Respond,
    Steps,
    Told,
)
from guardrail_plugin.flow.outcomes import Allowed, Blocked, Edited, Failed, Outcome
from guardrail_plugin.guardian.fallbacks import too_long
from guardrail_plugin.guardian.language import detect
from guardrail_plugin.guardian.protocol import CheckOutcome

BLOCKED_RESPONSE = "I can't help with this request."
UNJUDGED_RESPONSE = "I can't answer right now, because the safety check could not be completed. Please try again later."
UNCHECKABLE_RESPONSE = "I can only answer messages that contain text. Please say in words what you need."
UNCHECKABLE_BESIDE = "I can only check text, so I can't take the image or file beside it. Please send the text alone."
UNCHECKABLE_ANSWER = "I can't show this answer, because it holds no text that could be checked."
UNCHECKABLE_BESIDE_ANSWER = "I can't show this answer, because it holds an image or file that cannot be checked."
TOO_LONG_ANSWER = (
    "I can't show this answer, because it is too long to be checked in full. Please ask for less at a time."
)

logger = logging.getLogger("guardrail_plugin")


@dataclass(frozen=True, slots=True)
class Uncheckable:
    """A text of a known form in which there is nothing to judge: empty, or images only.

    Attributes:
        reason: what was found instead, and what the caller can do. Holds no user text.
        beside: it stands beside text that can be judged.
    """

    reason: str
    beside: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a rail goes by.

    Attributes:
        on_uncheckable: what happens to a text in which there is nothing to judge.
        on_escalate: whom to ask when the policy says ``"escalate"``; ``None``: nobody, it blocks.
        respond: whether a block is answered by the responder; ``False`` where nobody reads what it would write.
    """

    policy: Policy
    on_uncheckable: OnFailure = "block"
    on_escalate: OnEscalate | None = None
    respond: bool = True


def input_rail(
    subject: Check | Uncheckable | InputError,
    *,
    policy: Policy,
    beside: Uncheckable | None = None,
    on_uncheckable: OnFailure = "block",
    on_escalate: OnEscalate | None = None,
    respond: bool = True,
) -> Steps[Outcome]:
    """Decide what happens to one text, and to what stands beside it.

    An ``InputError`` as subject (no way to tell what to judge: the caller's mistake) always ends in ``Failed``.
    ``policy.on_failure`` covers a guardian or pool that gave no verdict; ``on_uncheckable`` covers inputs without
    text. Any other error, such as a missing dependency, ends in ``Failed``: nothing goes on.

    ``action="escalate"`` asks ``on_escalate``; without one it blocks, and the outcome keeps the word.

    Args:
        beside: what no rail can read, such as an image: where the text may pass, it is like an input without any.
    """
    rules = Rules(policy=policy, on_uncheckable=on_uncheckable, on_escalate=on_escalate, respond=respond)
    outcome = yield from _of_text(subject, rules)
    if beside is None or not isinstance(outcome, Allowed) or on_uncheckable == "allow":
        return outcome
    return _uncheckable(beside, rules)


def _of_text(subject: Check | Uncheckable | InputError, rules: Rules) -> Steps[Outcome]:
    if isinstance(subject, InputError):
        return Failed("input", subject)
    if isinstance(subject, Uncheckable):
        return _uncheckable(subject, rules)
    answer = yield Classify(subject, rules.policy.timeout_s)
    if not isinstance(answer, Verdict):
        return unjudged(no_verdict(answer), rail=subject.rail, rules=rules)
    return (yield from act(subject, answer, rules=rules))


def output_rail(
    subject: Sequence[Check] | Uncheckable | InputError,
    *,
    asked: Check | None,
    rules: Rules,
    beside: Uncheckable | None = None,
) -> Steps[Outcome]:
    """Decide what happens to one whole answer, all parts of which are judged at once.

    Without any check (an empty answer) there is nothing that could do harm, and it goes on.

    Args:
        subject: the answer's parts: its text, its reasoning, each of its tool calls.
        asked: what the responder is given when the answer is blocked; ``None``: the part that was blocked.
        beside: what no rail can read, such as an image: where the text may pass, it is like an answer without any.
    """
    return with_beside(lambda what: _of_answer(subject, asked=asked, rules=what), beside, rules=rules)


def with_beside(
    decide: Callable[[Rules], Steps[Outcome]], beside: Uncheckable | None, *, rules: Rules
) -> Steps[Outcome]:
    """Decide about an answer, and about what stands in it that no rail can read."""
    if beside is None or rules.on_uncheckable == "allow":
        return (yield from decide(rules))
    # Nobody is asked about an answer that cannot go on.
    outcome = yield from decide(replace(rules, on_escalate=None))
    if not isinstance(outcome, Allowed):
        return outcome
    refused = unjudged(InputError(beside.reason), rail="output", rules=rules)
    return replace(refused, response=UNCHECKABLE_BESIDE_ANSWER) if isinstance(refused, Blocked) else refused


def _of_answer(
    subject: Sequence[Check] | Uncheckable | InputError, *, asked: Check | None, rules: Rules
) -> Steps[Outcome]:
    if isinstance(subject, InputError):
        return Failed("output", subject)
    if isinstance(subject, Uncheckable):
        return unjudged(InputError(subject.reason), rail="output", rules=rules)
    if not subject:
        return Allowed("output")
    answer = yield ClassifyMany(tuple(subject), rules.policy.timeout_s)
    outcomes = answer.outcomes if isinstance(answer, Judged) else _no_verdicts(subject)
    return (yield from settle(subject, outcomes, asked=asked, rules=rules))


def settle(
    checks: Sequence[Check], outcomes: Sequence[CheckOutcome], *, asked: Check | None, rules: Rules
) -> Steps[Outcome]:
    """Decide about parts that have been judged: the strictest speaks for all. A person is asked about each in turn."""
    missing: GuardrailError | None = None
    found: list[tuple[tuple[int, bool, float], Check, Verdict]] = []
    for check, outcome in zip(checks, outcomes, strict=True):
        if isinstance(outcome, GuardrailError):
            refused = unjudged(outcome, rail=check.rail, rules=rules)
            if not isinstance(refused, Allowed):
                return refused
            missing = outcome
            continue
        verdict = rules.policy.deciding(outcome)
        ruling = rules.policy.ruling(verdict)
        # What was found says more than that some part was too long.
        rank = (
            STRICTNESS[ruling.action],
            ruling.cause != "truncated",
            verdict.risk - rules.policy.threshold_for(verdict),
        )
        found.append((rank, check, verdict))
    if not found:
        return Allowed("output", error=missing)
    found.sort(key=lambda one: one[0], reverse=True)
    for _, check, verdict in found:
        decided = yield from act(check, verdict, rules=rules, asked=asked)
        if not isinstance(decided, Allowed):
            return decided
    _, check, verdict = found[0]
    return Allowed(check.rail, verdict, missing, rules.policy.ruling(verdict))


def act(check: Check, verdict: Verdict, *, rules: Rules, asked: Check | None = None) -> Steps[Outcome]:
    """Carry out what the policy says about a verdict."""
    verdict = rules.policy.deciding(verdict)
    ruling = rules.policy.ruling(verdict)
    action = ruling.action
    if action == "allow":
        return Allowed(check.rail, verdict, ruling=ruling)
    if action == "escalate" and (told := (yield from ask_person(check, verdict, ruling, rules=rules))) is not None:
        return told
    if ruling.cause == "incomplete":
        return unjudged(no_verdict(verdict), rail=check.rail, rules=rules)
    if ruling.cause == "truncated":
        verdict = replace(verdict, hazard=None)  # what was judged of the text accuses nobody of anything
    if rules.policy.on_block == "raise":
        return Failed(check.rail, BlockedError(verdict, rail=check.rail), verdict, action, ruling)
    if ruling.cause == "truncated":
        response: Answer = too_long(detect(check.text)) if check.rail == "input" else TOO_LONG_ANSWER
    elif rules.respond:
        response = yield Respond(asked or check, verdict, rules.policy.timeout_s)
    else:
        response = BLOCKED_RESPONSE
    if not isinstance(response, str) or not response.strip():
        # The verdict stands whatever became of the responder.
        response = BLOCKED_RESPONSE
    return Blocked(check.rail, response, verdict, action, ruling=ruling)


def ask_person(check: Check, verdict: Verdict, ruling: Ruling, *, rules: Rules) -> Steps[Allowed | Edited | None]:
    """Ask whoever decides. ``None``: they said no, or nothing that is an answer, or there is nobody."""
    if rules.on_escalate is None:
        return None
    told = yield Escalate(check, verdict, rules.on_escalate)
    answer = told.answer if isinstance(told, Told) else None
    if answer == "allow":
        return Allowed(check.rail, verdict, ruling=ruling)
    if isinstance(answer, str) and answer.strip() and answer != "block":
        return Edited(check.rail, answer, verdict, ruling=ruling)
    return None


def no_verdict(answer: Answer) -> GuardrailError:
    """Return the error of a check that did not bring a whole verdict."""
    if isinstance(answer, GuardrailError):
        return answer
    lacking = isinstance(answer, Verdict)
    return GuardianError("one of the guardians gave no verdict" if lacking else "the guardian answered with text")


def _uncheckable(subject: Uncheckable, rules: Rules) -> Outcome:
    outcome = unjudged(InputError(subject.reason), rail="input", rules=rules)
    if not subject.beside or isinstance(outcome, Allowed):
        return outcome
    _warn_of_what_is_beside()
    return replace(outcome, response=UNCHECKABLE_BESIDE) if isinstance(outcome, Blocked) else outcome


@cache
def _warn_of_what_is_beside() -> None:
    """Name the setting, once a process: by default every message with an image is refused."""
    logger.warning(
        "a message with an image or file beside its text was refused, because no rail can check these; to let them "
        'pass unchecked, set on_uncheckable="allow" (README, "What it does not do")'
    )


def unjudged(error: GuardrailError, *, rail: Rail, rules: Rules) -> Outcome:
    """Decide about a text for which there is no verdict."""
    if isinstance(error, InputError):
        order = rules.on_uncheckable
        response = UNCHECKABLE_RESPONSE if rail == "input" else UNCHECKABLE_ANSWER
    elif isinstance(error, GuardianError | PoolError):
        order, response = rules.policy.on_failure, UNJUDGED_RESPONSE
    else:
        return Failed(rail, error)
    if order == "allow":
        return Allowed(rail, error=error)
    if order == "raise":
        return Failed(rail, error)
    if rules.policy.on_block == "raise":
        blocked = BlockedError(None, rail=rail)
        blocked.__cause__ = error
        return Failed(rail, blocked)
    return Blocked(rail, response, error=error)


def _no_verdicts(checks: Sequence[Check]) -> tuple[CheckOutcome, ...]:
    return (GuardianError("the guardian gave no verdicts"),) * len(checks)
