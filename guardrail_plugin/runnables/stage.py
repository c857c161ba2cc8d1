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
from guardrail_plugin.runnables.output import OutputKind, reply
from guardrail_plugin.runnables.rail_runs import TracedRail
from guardrail_plugin.runnables.rewrite import rewrite_input
from guardrail_plugin.runnables.views import InputKey, Turn, read_turn

OnBlock: TypeAlias = Literal["respond", "raise"] | Callable[[Verdict | None, str], Any]
"""``"respond"``, ``"raise"``, or a function from the verdict and the safeguard response to the chain's output.

Its result type is the wrapped chain's own, which only the caller knows.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputStage:
    """An input rail with its settings. Immutable and shared by all calls of a wrapper.

    Attributes:
        on: ``False`` lets every input on unjudged: only answers are checked.
        kind: the type of a safeguard response; ``None`` where ``on_block`` makes it or blocks raise.
    """

    guardian: GuardianProtocol
    rules: Rules
    kind: OutputKind | None
    input_key: InputKey | None
    on_block: OnBlock | None
    context_turns: int
    on: bool = True

    @property
    def policy(self) -> Policy:
        """The policy with the wrapper's own ``on_block`` written into it."""
        return self.rules.policy

    def judge(
        self,
        inputs: Sequence[object],
        parents: Sequence[CallbackManagerForChainRun],
        *,
        max_concurrency: int | None = None,
    ) -> list[Outcome]:
        """Decide about inputs in one guardian batch, each inside a child run of its parent.

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

    def accepted(self, value: object, outcome: Outcome) -> object:
        """Return the input with which a call goes on: as it came, or as a person edited it.

        Raises:
            InputError: the edited text cannot be written back into this input.
        """
        if isinstance(outcome, Edited):
            return rewrite_input(value, outcome.text, input_key=self.input_key)
        return value

    def asked(self, value: object) -> Asked:
        """Return what an answer to this input answers; nothing where the input cannot be read."""
        turn = self._turn(value)
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
        return [self._flow(self._turn(value)) for value in inputs]

    def _flow(self, turn: Turn | InputError) -> Steps[Outcome]:
        return input_rail(
            turn.subject if isinstance(turn, Turn) else turn,
            beside=turn.beside if isinstance(turn, Turn) else None,
            policy=self.rules.policy,
            on_uncheckable=self.rules.on_uncheckable,
            on_escalate=self.rules.on_escalate,
            respond=self.rules.respond,
        )

    def _turn(self, value: object) -> Turn | InputError:
        try:
            return read_turn(value, input_key=self.input_key, context_turns=self.context_turns)
        except InputError as error:
            return error
