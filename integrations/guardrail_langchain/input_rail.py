"""The input rail of an agent: judge new user turns, and tool outputs that the caller brought."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.runnables.config import ensure_config

from guardrail_langchain.held import GuardrailState
from guardrail_langchain.settings import Settings
from guardrail_langchain.turns import after, answer, brought_outputs, new_turns, prints, written
from guardrail_plugin.flow import Blocked, Edited, Failed, OnEscalate, Outcome
from guardrail_plugin.runnables import aunder_config, read_output, replaced, under_config


class InputJudgement:
    """What an agent is given at the start of a run, and what becomes of it."""

    def __init__(self, state: GuardrailState, settings: Settings, ask: OnEscalate, *, by: str) -> None:
        self._by = by
        self._messages: Sequence[BaseMessage] = state["messages"]
        self._judged: Sequence[str] = (state.get("guardrail_judged") or {}).get(by, ())
        self._stage = settings.input_stage(ask)
        self._turns = new_turns(self._messages, self._judged) if "input" in settings.rails else []
        self._settings = settings
        self._outputs = brought_outputs(self._messages) if "tools" in settings.rails else []

    @property
    def _inputs(self) -> list[list[BaseMessage]]:
        return [list(self._messages[: turn.stop]) for turn in self._turns]

    def run(self) -> dict[str, Any] | None:
        """Return the update of the agent's state."""
        if not self._turns and not self._outputs:
            return None
        parent = under_config(ensure_config())
        outcomes = self._stage.judge(self._inputs, [parent] * len(self._turns)) if self._turns else []
        changes = written(self._messages, self._turns, outcomes)
        for output in self._outputs:
            judged = self._settings.tool_stage(None).outputs(output.name or "", read_output(output), parent)
            changes += _changed(output, judged)
        return self._update(outcomes, changes)

    async def arun(self) -> dict[str, Any] | None:
        """Like ``run``. Cancellation: passes to the guardian."""
        if not self._turns and not self._outputs:
            return None
        parent = aunder_config(ensure_config())
        outcomes = await self._stage.ajudge(self._inputs, [parent] * len(self._turns)) if self._turns else []
        changes = written(self._messages, self._turns, outcomes)
        for output in self._outputs:
            judged = await self._settings.tool_stage(None).aoutputs(output.name or "", read_output(output), parent)
            changes += _changed(output, judged)
        return self._update(outcomes, changes)

    def _update(self, outcomes: Sequence[Outcome], changes: list[BaseMessage]) -> dict[str, Any]:
        update: dict[str, Any] = {}
        if self._turns:
            update["guardrail_judged"] = {self._by: prints(after(self._messages, changes))}
        said = answer(self._stage, outcomes)
        if said is not None:
            changes = [*changes, said]
            update["jump_to"] = "end"
        return {**update, "messages": changes} if changes else update


def _changed(output: ToolMessage, outcomes: Sequence[Outcome]) -> list[BaseMessage]:
    texts: list[str | None] = []
    for outcome in outcomes:
        if isinstance(outcome, Failed):
            raise outcome.error
        edited = outcome.text if isinstance(outcome, Edited) else None
        texts.append(outcome.response if isinstance(outcome, Blocked) else edited)
    return [replaced(output, texts, error=True)] if any(text is not None for text in texts) else []
