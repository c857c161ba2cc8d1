"""The input rail as a wrapper uses it: read inputs, run the flow with its trace runs, make what a caller gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import InputError
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.core.verdict import Verdict
from guardrail_plugin.flow import (
    Allowed,
    Edited,
    Failed,
    Outcome,
    Rules,
    Steps,
    describe,
    input_rail,
)
from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.runnables.answers import Asked
from guardrail_plugin.runnables.input_keys import Declared, InputKey
from guardrail_plugin.runnables.output import OutputKind, reply
from guardrail_plugin.runnables.rail_runs import TracedRail
from guardrail_plugin.runnables.rewrite import rewrite_input
from guardrail_plugin.runnables.views import Turn, read_turn

_AROUND_S = 5.0
"""For what stands around the guardian's own time: callbacks, and the way to its pool."""

_PERSON_S = 3600.0
"""For a person who is asked."""

Reading: TypeAlias = Turn | InputError
"""An input as it was read, whatever becomes of the input afterwards."""

OnBlock: TypeAlias = Literal["respond", "raise"] | Callable[[Verdict | None, str], Any]
"""``"respond"``, ``"raise"``, or a function from the verdict and the safeguard response to the chain's output.

Its result type is the wrapped chain's own, which only the caller knows.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputStage:
    """An input rail with its settings. Immutable and shared by all calls of a wrapper.

    Attributes:
        declared: what the chain says that it reads of an input; ``None``: that is not known for certain.
        on: ``False`` lets every input on unjudged: only answers are checked.
        kind: the type of a safeguard response; ``None`` where ``on_block`` makes it or blocks raise.
    """

    guardian: GuardianProtocol
    rules: Rules
    kind: OutputKind | None
    input_key: InputKey | None
    on_block: OnBlock | None
    context_turns: int
    declared: Declared | None = None
    on: bool = True

    @property
    def policy(self) -> Policy:
        """The policy with the wrapper's own ``on_block`` written into it."""
        return self.rules.policy

    @property
    def verdict_within_s(self) -> float:
        """How long a call may wait for what is decided about its input, in seconds."""
        return self.policy.timeout_s + _AROUND_S if self.rules.on_escalate is None else _PERSON_S

    def read(self, value: object) -> Reading:
        """Read an input. A chain may edit it in place: read it before, and hand on the reading."""
        if isinstance(value, Turn | InputError):
            return value
        try:
            return read_turn(value, input_key=self.input_key, declared=self.declared, context_turns=self.context_turns)
        except InputError as error:
            return error

    def judge(
        self,
        inputs: Sequence[object],
        parents: Sequence[CallbackManagerForChainRun],
        *,
        max_concurrency: int | None = None,
    ) -> list[Outcome]:
        """Decide about inputs, or readings of them, in one guardian batch, each inside a child run of its parent.

        Raises:
            BaseException: only what is not a ``GuardrailError``; those become outcomes.
        """
        if not self.on:
            return [Allowed("input")] * len(inputs)
        return self._traced.run(self._flows(inputs), parents, max_concurrency=max_concurrency)

    async def ajudge(
        self,
        inputs: Sequence[object],
        parents: Sequence[AsyncCallbackManagerForChainRun],
        *,
        max_concurrency: int | None = None,
    ) -> list[Outcome]:
        """Like ``judge``. Cancellation: passes to the guardian; the rail's runs end as failed."""
        if not self.on:
            return [Allowed("input")] * len(inputs)
        return await self._traced.arun(self._flows(inputs), parents, max_concurrency=max_concurrency)

    def instead(self, outcome: Outcome, *, chunk: bool = False) -> object:
        """Return what a caller gets in place of the chain's output.

        Raises:
            GuardrailError: the outcome is ``Failed``; also whatever a caller's ``on_block`` raises.
        """
        if isinstance(outcome, Failed):
            raise outcome.error
        if isinstance(outcome, Allowed | Edited):
            raise AssertionError("a call that goes on has nothing in place of its output")
        if callable(self.on_block):
            return self.on_block(outcome.verdict, outcome.response)
        if self.kind is None:
            raise AssertionError("construction settles a type wherever a response can be needed")
        fields = describe(outcome, policy_version=self.policy.version)
        return reply(outcome.response, self.kind, fields=fields, chunk=chunk)

    def accepted(self, value: object, turn: Reading, outcome: Outcome) -> tuple[object, Reading]:
        """Return the input with which a call goes on, as it came or as a person edited it, and the reading of that.

        Raises:
            InputError: the edited text cannot be written back into this input.
        """
        if not isinstance(outcome, Edited):
            return value, turn
        value = rewrite_input(value, outcome.text, input_key=self.input_key, declared=self.declared)
        return value, self.read(value)

    def asked(self, value: object) -> Asked:
        """Return what an answer to this input, or reading, answers; nothing where the input cannot be read."""
        turn = self.read(value)
        subject = turn.subject if isinstance(turn, Turn) else turn
        return Asked(subject.text, subject.context) if isinstance(subject, Check) else Asked()

    def settled(self, outcomes: Sequence[Outcome], *, keep_errors: bool) -> dict[int, object]:
        """Return, by index, the results of all calls that do not go on; with ``keep_errors`` errors are results.

        Raises:
            GuardrailError: without ``keep_errors``, the first error, before any other call goes on.
        """
        results: dict[int, object] = {}
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, Allowed | Edited):
                continue
            try:
                results[index] = self.instead(outcome)
            except Exception as error:
                if not keep_errors:
                    raise
                results[index] = error
        return results

    @property
    def _traced(self) -> TracedRail:
        return TracedRail(self.guardian, self.policy, "input")

    def _flows(self, inputs: Sequence[object]) -> list[Steps[Outcome]]:
        return [self._flow(self.read(value)) for value in inputs]

    def _flow(self, turn: Reading) -> Steps[Outcome]:
        return input_rail(
            turn.subject if isinstance(turn, Turn) else turn,
            beside=turn.beside if isinstance(turn, Turn) else None,
            policy=self.rules.policy,
            on_uncheckable=self.rules.on_uncheckable,
            on_escalate=self.rules.on_escalate,
            respond=self.rules.respond,
        )
