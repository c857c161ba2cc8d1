"""The input rail of an agent: judge new user turns, and tool outputs that the caller brought."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables.config import ensure_config

from guardrail_langchain.held import GuardrailState
from guardrail_langchain.settings import Settings
from guardrail_langchain.tool_call import passed
from guardrail_langchain.turns import (
    SUMMARY_WITHHELD,
    Output,
    added_outputs,
    after,
    answer,
    brought_outputs,
    heard,
    new_turns,
    noted,
    written,
)
from guardrail_plugin.flow import Outcome
from guardrail_plugin.runnables import aunder_config, read_output, under_config


class InputJudgement:
    """What users have said in an agent's state that nobody has judged, and what becomes of it."""

    def __init__(
        self,
        state: GuardrailState,
        settings: Settings,
        *,
        by: str,
        begins: bool,
        reviewed: Sequence[BaseMessage] = (),
    ) -> None:
        """Find what is new.

        Args:
            begins: a run begins: tool outputs that are new are the caller's. Later the agent's own are among them,
                which have been judged.
            reviewed: what becomes of outputs that a person was asked about.
        """
        self._by = by
        self._reviewed = reviewed
        self._messages: Sequence[BaseMessage] = state["messages"]
        self._judged: Sequence[str] = (state.get("guardrail_judged") or {}).get(by, ())
        judged = self._judged
        self._settings = settings
        self._stage = settings.input_stage(settings.ask)
        self._turns, self._summaries = new_turns(self._messages, judged) if "input" in settings.rails else ([], [])
        self._inputs = [heard(self._messages, turn) for turn in self._turns]
        self._told = [self._messages[summary.stop - 1] for summary in self._summaries]
        self._outputs: list[Output] = []
        if "tools" in settings.rails and begins:
            self._outputs = brought_outputs(self._messages, judged)
        elif "tools" in settings.rails:
            self._outputs = added_outputs(self._messages, judged, settings.own)

    def run(self) -> dict[str, Any] | None:
        """Return the update of the agent's state."""
        parent = under_config(ensure_config())
        outcomes = self._stage.judge(self._inputs, [parent] * len(self._inputs)) if self._inputs else []
        told: list[Outcome] = []
        if self._told:
            quiet = self._settings.input_stage(self._settings.ask, quiet=True)
            told = quiet.judge(self._told, [parent] * len(self._told))
        outputs: list[Output] = []
        for output in self._outputs:
            tools = self._settings.tool_stage(None)
            # Without its name: trust is in a tool that runs here, and this one is only said to have run.
            outputs.append(passed(output, tools.outputs("", read_output(output), parent)))
        return self._update(outcomes, told, outputs)

    async def arun(self) -> dict[str, Any] | None:
        """Like ``run``. Cancellation: passes to the guardian."""
        parent = aunder_config(ensure_config())
        outcomes = await self._stage.ajudge(self._inputs, [parent] * len(self._inputs)) if self._inputs else []
        told: list[Outcome] = []
        if self._told:
            quiet = self._settings.input_stage(self._settings.ask, quiet=True)
            told = await quiet.ajudge(self._told, [parent] * len(self._told))
        outputs: list[Output] = []
        for output in self._outputs:
            tools = self._settings.tool_stage(None)
            outputs.append(passed(output, await tools.aoutputs("", read_output(output), parent)))
        return self._update(outcomes, told, outputs)

    def _update(
        self, outcomes: Sequence[Outcome], told: Sequence[Outcome], outputs: Sequence[Output]
    ) -> dict[str, Any] | None:
        changes = written(self._messages, self._turns, outcomes)
        changes += written(self._messages, self._summaries, told, withheld=SUMMARY_WITHHELD)
        changes += [now for now, before in zip(outputs, self._outputs, strict=True) if now is not before]
        update: dict[str, Any] = {}
        now = after(self._messages, [*changes, *self._reviewed])
        judged = noted(
            self._judged,
            turns=now if outcomes or told else None,
            outputs=now if "tools" in self._settings.rails else None,
        )
        if judged != list(self._judged):
            update["guardrail_judged"] = {self._by: judged}
        said = answer(self._stage, outcomes)
        if said is not None:
            changes = [*changes, said]
            update["jump_to"] = "end"
        if changes:
            update["messages"] = changes
        return update or None


def at_the_end(state: GuardrailState, settings: Settings, *, by: str) -> dict[str, Any] | None:
    """Return the update in which a run that ended with its tools notes their outputs: the next one must know them."""
    if "tools" not in settings.rails:
        return None
    before: Sequence[str] = (state.get("guardrail_judged") or {}).get(by, ())
    messages: Sequence[BaseMessage] = state["messages"]
    foreign = added_outputs(messages, before, settings.own)
    own = [message for message in messages if not any(message is one for one in foreign)]
    judged = noted(before, turns=None, outputs=own)
    return {"guardrail_judged": {by: judged}} if judged != list(before) else None
