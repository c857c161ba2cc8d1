"""The rails of one request: the library's own flows, run on its guardian, and told to its observers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from guardrail_fastapi import GuardrailService
from guardrail_gateway.bodies import JsonObject
from guardrail_gateway.completions import instead
from guardrail_gateway.history import NOTHING, History
from guardrail_gateway.notes import Note
from guardrail_gateway.problems import Problem
from guardrail_gateway.reading import ToolOutput
from guardrail_gateway.settings import GatewaySettings
from guardrail_plugin import Check, InputError, Policy
from guardrail_plugin.flow import (
    Allowed,
    Blocked,
    Edited,
    Failed,
    HoldBack,
    Outcome,
    Rules,
    Steps,
    Uncheckable,
    Window,
    describe,
    input_rail,
    output_rail,
    run_batch_async,
)
from guardrail_plugin.flow.tool_rails import tool_output_rail
from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.observe import RailEvent
from guardrail_plugin.runnables.answers import Asked, read_answer
from guardrail_plugin.runnables.views import Turn

WITHHELD = "This message was withheld by a safety check."
"""What a model gets in place of an earlier turn that does not pass, and of what was said to it."""

_MOST_AT_ONCE = 256
"""Checks of one guardian batch, which has one time limit."""

_STRICTNESS = {"allow": 0, "edit": 1, "escalate": 2, "block": 3}


@dataclass(frozen=True, slots=True)
class _Part:
    """One thing that a request says.

    Attributes:
        messages: which of the request's say it.
        earlier: it was there before, and the request can go on without it.
    """

    kind: Literal["question", "tool", "system", "turn"]
    subject: Check | tuple[Check, ...] | Uncheckable | InputError
    flow: Steps[Outcome]
    messages: tuple[int, ...] = ()
    earlier: bool = False


@dataclass(slots=True)
class Desk:
    """Judges what one request says and gets. Its policy is the one in force when the request came.

    Attributes:
        asked: what answers are judged against; set once the question is read.
        told: the outcomes so far, as fields.
        recall: judges what the request says in place of the service's guardian.
    """

    service: GuardrailService
    settings: GatewaySettings
    note: Note
    asked: Asked = field(default_factory=Asked)
    told: list[dict[str, object]] = field(default_factory=list)
    recall: GuardianProtocol | None = field(default=None, kw_only=True)
    policy: Policy = field(init=False)

    def __post_init__(self) -> None:
        self.policy = self.service.policy

    @property
    def rules(self) -> Rules:
        """The policy, where "block unjudged" is told as an HTTP error: that is a status, which clients retry."""
        closed = self.policy.on_failure == "block"
        policy = self.policy.model_copy(update={"on_failure": "raise"}) if closed else self.policy
        return Rules(policy=policy, on_uncheckable=self.settings.on_uncheckable)

    async def question(
        self,
        asked: Turn | InputError | None,
        history: History = NOTHING,
        tool_outputs: Mapping[int, ToolOutput] = MappingProxyType({}),
    ) -> tuple[Outcome | None, dict[int, str]]:
        """Decide about all that a request says, in one guardian batch (a long history: in several).

        Returns:
            How the latest turn ended, or what blocks the request; and by message, what the model gets instead of it.

        Raises:
            Problem: no verdict could be had, a system message does not pass, or the policy says that blocks raise.

        Cancellation: passes to the guardian, which withdraws the work.
        """
        if isinstance(asked, Turn) and isinstance(asked.subject, Check):
            self.asked = Asked(asked.subject.text, asked.subject.context)
        parts, started = self._parts(asked, history, tool_outputs), time.monotonic()
        outcomes: list[Outcome] = []
        for at in range(0, len(parts), _MOST_AT_ONCE):
            flows = [part.flow for part in parts[at : at + _MOST_AT_ONCE]]
            outcomes += await run_batch_async(flows, self.recall or self.service.guardian)
        self._tell_of(parts, outcomes, seconds=time.monotonic() - started)
        stopped = [(part, out) for part, out in zip(parts, outcomes, strict=True) if isinstance(out, Blocked | Edited)]
        ends = [out for part, out in [*stopped, *zip(parts, outcomes, strict=True)] if part.kind == "question"]
        system = [out for part, out in stopped if part.kind == "system"]
        if system and not (ends and isinstance(ends[0], Blocked)):
            raise _system_blocked(system[0], self.headers())
        withheld = {
            index: WITHHELD if part.kind == "turn" else instead(out) for part, out in stopped for index in part.messages
        }
        return ends[0] if ends else None, withheld

    def _tell_of(self, parts: Sequence[_Part], outcomes: Sequence[Outcome], *, seconds: float) -> None:
        for part, outcome in zip(parts, outcomes, strict=True):
            # What passes with every request is told once, when it is new.
            again = part.earlier or part.kind == "system"
            if not again or not isinstance(outcome, Allowed) or outcome.error is not None:
                checks = (part.subject,) if isinstance(part.subject, Check) else part.subject
                checks = checks if isinstance(checks, tuple) else ()
                self.tell(outcome, seconds=seconds, checks=checks, earlier=part.earlier)
        for outcome in outcomes:
            if isinstance(outcome, Failed):
                raise Problem.of(outcome.error)

    def _parts(
        self, asked: Turn | InputError | None, history: History, tool_outputs: Mapping[int, ToolOutput]
    ) -> list[_Part]:
        rules = self.rules
        # Nobody reads a safeguard response to these.
        quiet = replace(rules, policy=rules.policy.model_copy(update={"on_block": "respond"}), respond=False)
        parts = [] if asked is None else [_asked_part("question", asked, rules=rules)]
        parts += [_asked_part("question", Turn(subject), rules=rules) for subject in history.beside]
        parts += [_tool_part(at, told, rules=rules) for at, told in tool_outputs.items()]
        parts += [_asked_part("system", turn, rules=quiet) for turn in history.system]
        for old in history.earlier:
            parts.append(replace(_asked_part("turn", old.turn, rules=quiet), messages=old.messages, earlier=True))
        for step in history.steps:
            flow = output_rail(step.subject, asked=None, beside=step.unread, rules=quiet)
            parts.append(_Part("turn", step.subject, flow, (step.message,), earlier=True))
        parts += [_tool_part(at, told, rules=rules, earlier=True) for at, told in history.tool_outputs.items()]
        return parts

    async def answers(self, outputs: Sequence[object]) -> list[Outcome]:
        """Decide about whole answers, in one guardian batch. Raises and is cancelled as ``question``."""
        rules, started = self.rules, time.monotonic()
        read = [self._read(output) for output in outputs]
        flows = [output_rail(said, asked=self._what(said), beside=beside, rules=rules) for said, beside in read]
        outcomes = await run_batch_async(flows, self.service.guardian)
        for (said, _), outcome in zip(read, outcomes, strict=True):
            checks = said if isinstance(said, tuple) else ()
            self.tell(outcome, seconds=time.monotonic() - started, checks=checks)
        for outcome in outcomes:
            if isinstance(outcome, Failed):
                raise Problem.of(outcome.error)
        return outcomes

    def holdback(self) -> HoldBack[JsonObject]:
        """Return the output rail of one streamed answer."""
        return HoldBack(
            window=Window(self.settings.window),
            rules=self.rules,
            query=self.asked.query,
            context=self.asked.context,
            release=self.settings.release,
        )

    def tell(
        self,
        outcome: Outcome,
        *,
        seconds: float,
        checks: Sequence[Check] = (),
        released_characters: int = 0,
        earlier: bool = False,
    ) -> None:
        """Tell the observers how a rail ended.

        Args:
            earlier: it is about what a request repeats, without which the request goes on.
        """
        event = RailEvent.of(
            outcome,
            policy=self.policy,
            seconds=seconds,
            checks=checks,
            released_characters=released_characters,
            request_id=self.note.request_id,
            caller=self.note.caller,
        )
        fields = describe(outcome, policy_version=self.policy.version)
        self.told.append({**fields, "earlier": True} if earlier else fields)
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
        news = [told for told in self.told if "earlier" not in told]
        return max(news, key=lambda told: _STRICTNESS.get(str(told["action"]), 3), default={})

    def _read(self, output: object) -> tuple[tuple[Check, ...] | Uncheckable | InputError, Uncheckable | None]:
        try:
            answer = read_answer(output, self.asked, None)
        except InputError as error:
            return error, None
        return answer.subject, answer.beside

    def _what(self, subject: object) -> Check | None:
        return self.asked.check(subject[0].text) if isinstance(subject, tuple) and subject else None


def _asked_part(kind: Literal["question", "system", "turn"], turn: Turn | InputError, *, rules: Rules) -> _Part:
    subject, beside = (turn, None) if isinstance(turn, InputError) else (turn.subject, turn.beside)
    flow = input_rail(
        subject, beside=beside, policy=rules.policy, on_uncheckable=rules.on_uncheckable, respond=rules.respond
    )
    return _Part(kind, subject, flow)


def _tool_part(at: int, told: ToolOutput, *, rules: Rules, earlier: bool = False) -> _Part:
    flow = tool_output_rail(told.check, rules=rules, files=told.files)
    return _Part("tool", told.check, flow, (at,), earlier=earlier)


def _system_blocked(outcome: Blocked | Edited, headers: Mapping[str, str]) -> Problem:
    verdict = outcome.verdict
    why = f" ({verdict.hazard})" if verdict is not None and verdict.hazard else ""
    message = (
        f"A system message was blocked by a safety check{why}. Where system messages are the operator's own, and never "
        "a user's, start the gateway with trust_system=True (guardrail serve --trust-system)."
    )
    return Problem(403, "content_filter", message, headers=headers)
