"""The rails of one request: the library's own flows, run on its guardian, and told to its observers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from guardrail_fastapi import GuardrailService
from guardrail_gateway.notes import Note
from guardrail_gateway.problems import Problem
from guardrail_gateway.settings import GatewaySettings
from guardrail_plugin import Check, InputError, Policy
from guardrail_plugin.flow import (
    Failed,
    HoldBack,
    Outcome,
    Rules,
    Uncheckable,
    Window,
    describe,
    input_rail,
    output_rail,
    run_batch_async,
)
from guardrail_plugin.flow.tool_rails import tool_output_rail
from guardrail_plugin.observe import RailEvent
from guardrail_plugin.runnables.answers import Asked, answer_checks

_STRICTNESS = {"allow": 0, "edit": 1, "escalate": 2, "block": 3}


@dataclass(slots=True)
class Desk:
    """Judges what one request says and gets. Its policy is the one in force when the request came.

    Attributes:
        asked: what answers are judged against; set once the question is read.
        told: the outcomes so far, as fields.
    """

    service: GuardrailService
    settings: GatewaySettings
    note: Note
    asked: Asked = field(default_factory=Asked)
    told: list[dict[str, object]] = field(default_factory=list)
    policy: Policy = field(init=False)

    def __post_init__(self) -> None:
        self.policy = self.service.policy

    @property
    def rules(self) -> Rules:
        """The policy, where "block unjudged" is told as an HTTP error: that is a status, which clients retry."""
        closed = self.policy.on_failure == "block"
        return Rules(policy=self.policy.model_copy(update={"on_failure": "raise"}) if closed else self.policy)

    async def question(
        self, subject: Check | Uncheckable | InputError | None, tool_outputs: Sequence[Check] = ()
    ) -> tuple[Outcome | None, list[Outcome]]:
        """Decide about the latest turn and about what tools returned, in one guardian batch.

        Raises:
            Problem: no verdict could be had, or the policy says that blocks raise.

        Cancellation: passes to the guardian, which withdraws the work.
        """
        if isinstance(subject, Check):
            self.asked = Asked(subject.text, subject.context)
        rules, started = self.rules, time.monotonic()
        flows = [] if subject is None else [input_rail(subject, policy=rules.policy)]
        flows += [tool_output_rail(check, rules=rules) for check in tool_outputs]
        outcomes = await run_batch_async(flows, self.service.guardian)
        checks = ([subject] if subject is not None else []) + list(tool_outputs)
        for check, outcome in zip(checks, outcomes, strict=True):
            self.tell(outcome, seconds=time.monotonic() - started, checks=[check] if isinstance(check, Check) else [])
        for outcome in outcomes:
            if isinstance(outcome, Failed):
                raise Problem.of(outcome.error)
        return (None, outcomes) if subject is None else (outcomes[0], outcomes[1:])

    async def answers(self, outputs: Sequence[object]) -> list[Outcome]:
        """Decide about whole answers, in one guardian batch. Raises and is cancelled as ``question``."""
        rules, started = self.rules, time.monotonic()
        subjects = [self._checks(output) for output in outputs]
        flows = [output_rail(subject, asked=self._what(subject), rules=rules) for subject in subjects]
        outcomes = await run_batch_async(flows, self.service.guardian)
        for subject, outcome in zip(subjects, outcomes, strict=True):
            checks = subject if isinstance(subject, tuple) else ()
            self.tell(outcome, seconds=time.monotonic() - started, checks=checks)
        for outcome in outcomes:
            if isinstance(outcome, Failed):
                raise Problem.of(outcome.error)
        return outcomes

    def holdback(self) -> HoldBack[dict[str, object]]:
        """Return the output rail of one streamed answer."""
        return HoldBack(
            window=Window(self.settings.window),
            rules=self.rules,
            query=self.asked.query,
            context=self.asked.context,
            release=self.settings.release,
        )

    def tell(
        self, outcome: Outcome, *, seconds: float, checks: Sequence[Check] = (), released_characters: int = 0
    ) -> None:
        """Tell the observers how a rail ended."""
        event = RailEvent.of(
            outcome,
            policy=self.policy,
            seconds=seconds,
            checks=checks,
            released_characters=released_characters,
            request_id=self.note.request_id,
            caller=self.note.caller,
        )
        self.told.append(describe(outcome, policy_version=self.policy.version))
        self.note.rails.append(event)
        self.service.observers.rail(event)

    def extension(self, **fields: object) -> dict[str, object]:
        """Return what a response's ``guardrail`` field says: the strictest action, and each rail's verdict."""
        return {"action": self._strictest().get("action", "allow"), "rails": self.told, **fields}

    def headers(self) -> dict[str, str]:
        """Return the verdict as a header: action, rail, hazard and risk of the strictest rail so far."""
        worst: Mapping[str, object] = self._strictest()
        parts = [str(worst.get("action", "allow"))]
        parts += [f"{key}={worst[key]}" for key in ("rail", "hazard", "risk") if worst.get(key) is not None]
        return {"x-guardrail-verdict": "; ".join(parts).encode("ascii", "replace").decode()}

    def _strictest(self) -> dict[str, object]:
        return max(self.told, key=lambda told: _STRICTNESS.get(str(told["action"]), 3), default={})

    def _checks(self, output: object) -> tuple[Check, ...] | Uncheckable | InputError:
        try:
            return answer_checks(output, self.asked, None)
        except InputError as error:
            return error

    def _what(self, subject: object) -> Check | None:
        return self.asked.check(subject[0].text) if isinstance(subject, tuple) and subject else None
