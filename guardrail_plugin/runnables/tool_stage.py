"""Judge one tool call, before and after, with its trace runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.callbacks import AsyncParentRunManager, ParentRunManager

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.verdict import Rail, Verdict
from guardrail_plugin.flow import Blocked, Outcome, Rules, Steps
from guardrail_plugin.flow.tool_rails import ToolPolicy, tool_call_rail, tool_output_rail
from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.runnables.blocks import call_check
from guardrail_plugin.runnables.content import Content
from guardrail_plugin.runnables.rail_runs import TracedRail
from guardrail_plugin.runnables.tool_outputs import read_output
from guardrail_plugin.runnables.withheld import refusal_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolStage:
    """The two rails of tools, with their settings. Immutable; tools and agents share one."""

    guardian: GuardianProtocol
    rules: Rules
    tools: ToolPolicy

    def call(self, name: str, arguments: object, parent: ParentRunManager | None) -> Outcome:
        """Decide whether a tool is called."""
        return self._judge([self._call(name, arguments)], "tool_call", parent)[0]

    async def acall(self, name: str, arguments: object, parent: AsyncParentRunManager | None) -> Outcome:
        """Like ``call``. Cancellation: passes to the guardian."""
        return (await self._ajudge([self._call(name, arguments)], "tool_call", parent))[0]

    def ordered(self, calls: Sequence[tuple[str, object]], parent: ParentRunManager | None) -> list[Outcome]:
        """Decide which of a model's calls anybody may read: one guardian batch. Who is to be asked is asked later."""
        later = self._asking_later()
        return self._judge([later._call(name, arguments) for name, arguments in calls], "tool_call", parent)

    async def aordered(
        self, calls: Sequence[tuple[str, object]], parent: AsyncParentRunManager | None
    ) -> list[Outcome]:
        """Like ``ordered``. Cancellation: passes to the guardian."""
        later = self._asking_later()
        return await self._ajudge([later._call(name, arguments) for name, arguments in calls], "tool_call", parent)

    def texts(self, name: str, output: object) -> list[Content]:
        """Return what is to be judged of an output: nothing of a trusted tool's, of whatever form it is.

        Raises:
            InputError: it holds messages in a form that cannot be read.
        """
        return [] if name in self.tools.trust_outputs else read_output(output)

    def outputs(self, name: str, texts: Sequence[Content], parent: ParentRunManager | None) -> list[Outcome]:
        """Decide whether a model may read what the tool returned: one guardian batch. Empty: all of it, unjudged."""
        return [] if name in self.tools.trust_outputs else self._judge(self._outputs(texts), "tool_output", parent)

    async def aoutputs(
        self, name: str, texts: Sequence[Content], parent: AsyncParentRunManager | None
    ) -> list[Outcome]:
        """Like ``outputs``. Cancellation: passes to the guardian."""
        if name in self.tools.trust_outputs:
            return []
        return await self._ajudge(self._outputs(texts), "tool_output", parent)

    def _asking_later(self) -> ToolStage:
        asks = self.rules.on_escalate is not None
        return replace(self, rules=replace(self.rules, on_escalate=_later if asks else None))

    def _call(self, name: str, arguments: object) -> Steps[Outcome]:
        reason = refusal_of(arguments)
        if reason is not None:
            return _refused(reason)
        return tool_call_rail(call_check(name, arguments), name=name, tools=self.tools, rules=self.rules)

    def _outputs(self, texts: Sequence[Content]) -> list[Steps[Outcome]]:
        return [
            tool_output_rail(Check(content.text, rail="tool_output"), rules=self.rules, files=content.files)
            for content in texts
        ]

    def _judge(self, flows: list[Steps[Outcome]], rail: Rail, parent: ParentRunManager | None) -> list[Outcome]:
        parents = [parent] * len(flows) if parent is not None else []
        return TracedRail(self.guardian, self.rules.policy, rail).run(flows, parents)

    async def _ajudge(
        self, flows: list[Steps[Outcome]], rail: Rail, parent: AsyncParentRunManager | None
    ) -> list[Outcome]:
        parents = [parent] * len(flows) if parent is not None else []
        return await TracedRail(self.guardian, self.rules.policy, rail).arun(flows, parents)


def _later(verdict: Verdict, check: Check) -> str:
    """Let a call that a person decides about through: they are asked when it is to be made."""
    return "allow"


def _refused(reason: str) -> Steps[Outcome]:
    yield from ()
    return Blocked("tool_call", reason)


def edited_arguments(name: str, text: str) -> dict[str, Any] | None:
    """Read the arguments that a person wrote: a JSON object, with or without the tool's name before it."""
    try:
        arguments = json.loads(text.strip().removeprefix(name))
    except ValueError:
        return None
    return dict(arguments) if isinstance(arguments, Mapping) else None
