"""One tool call of an agent: judge the call before the tool runs, and its output before the model reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from uuid import uuid4

from langchain.agents.middleware import ToolCallRequest
from langchain_core.messages import ToolMessage
from langchain_core.runnables.config import ensure_config
from langchain_core.tools import BaseTool
from langgraph.types import Command

from guardrail_langchain.held import WAITING, ask, entry
from guardrail_langchain.settings import Settings
from guardrail_plugin import Check, Verdict
from guardrail_plugin.flow import Allowed, Blocked, Edited, Failed, Outcome, describe
from guardrail_plugin.flow.tool_rails import OUTPUT_BLOCKED
from guardrail_plugin.runnables import GuardedTool, ToolStage, aunder_config, replaced, texts_of, under_config

Result = ToolMessage | Command[Any]
R = TypeVar("R", bound=Result)


class ToolCall:
    """The tool rails of one call. Made for one ``wrap_tool_call``.

    Attributes:
        request: the request with the guarded tool in it.
    """

    def __init__(self, request: ToolCallRequest, settings: Settings, guarded: GuardedTool | None, *, by: str) -> None:
        self._by = by
        self._held: list[tuple[Verdict, str]] = []
        self._settings = settings
        self._name: str = request.tool_call["name"]
        self._id = request.tool_call["id"] or ""
        self._arguments = request.tool_call["args"]
        self._stage = settings.tool_stage(self._ask)
        raises = settings.policy.on_block == "raise"
        self._ends = _ends(request)
        self._tool = None
        self.request = request
        if guarded is not None:
            self._tool = guarded.with_stage(self._stage, handle="raise" if raises else "message")
            self.request = request.override(tool=self._tool)

    def refusal(self) -> ToolMessage | None:
        """Judge a call whose tool another middleware brings. ``None``: it may go on."""
        if self._tool is not None:
            return None
        return self._refusal(self._stage.call(self._name, self._arguments, under_config(ensure_config())))

    async def arefusal(self) -> ToolMessage | None:
        """Like ``refusal``. Cancellation: passes to the guardian."""
        if self._tool is not None:
            return None
        parent = aunder_config(ensure_config())
        return self._refusal(await self._stage.acall(self._name, self._arguments, parent))

    def finish(self, result: Result) -> Result:
        """Return the result as the model may read it."""
        if not self._judged(result):
            texts = self._stage.texts(self._name, result)
            outcomes = self._stage.outputs(self._name, texts, under_config(ensure_config()))
            result = passed(result, outcomes)
        return self._put_aside(result)

    async def afinish(self, result: Result) -> Result:
        """Like ``finish``. Cancellation: passes to the guardian."""
        if not self._judged(result):
            texts = self._stage.texts(self._name, result)
            outcomes = await self._stage.aoutputs(self._name, texts, aunder_config(ensure_config()))
            result = passed(result, outcomes)
        return self._put_aside(result)

    def _judged(self, result: Result) -> bool:
        """Tell whether the guarded tool made the result: not an error handler, nor another middleware."""
        return self._tool is not None and self._tool.answered

    def _ask(self, verdict: Verdict, check: Check) -> str:
        if check.rail == "tool_call":
            return ask(verdict, check)  # the arguments are in the state: a second run asks about the same ones
        self._held.append((verdict, check.text))
        return WAITING

    def _refusal(self, outcome: Outcome) -> ToolMessage | None:
        if isinstance(outcome, Failed):
            raise outcome.error
        if isinstance(outcome, Allowed):
            return None
        text = outcome.response if isinstance(outcome, Blocked) else OUTPUT_BLOCKED.format(hazard="")
        fields = describe(outcome, policy_version=self._settings.policy.version)
        return self._message(text, fields)

    def _message(self, text: str, fields: dict[str, object]) -> ToolMessage:
        return ToolMessage(
            content=text,
            tool_call_id=self._id,
            name=self._name,
            status="error",
            response_metadata={"guardrail": fields},
        )

    def _put_aside(self, result: Result) -> Result:
        """Return the result, and what of it waits for a person in the graph's state."""
        if not self._held:
            return result
        verdict, text = self._held[-1]
        message = self._waiting(result)
        if message is None:
            hazard = f" ({verdict.hazard})" if verdict.hazard else ""
            reason = OUTPUT_BLOCKED.format(hazard=hazard)
            withheld = [reason if said == WAITING else None for said in texts_of(result)]
            refused: Result = replaced(result, withheld, error=True)
            return refused
        message.id = message.id or str(uuid4())
        held = entry(message.model_copy(update={"content": text, "artifact": None}), verdict, by=self._by)
        kept = {"guardrail_held": {message.id: held}}
        if isinstance(result, ToolMessage):
            return Command(update={"messages": [result], **kept})
        return replace(result, update={**(result.update or {}), **kept})

    def _waiting(self, result: Result) -> ToolMessage | None:
        """Return the message that stands for what a person is asked about.

        ``None``: it cannot be told from others, or the run goes on, or ends, where nobody would ask.
        """
        if len(self._held) != 1 or self._ends:
            return None
        if isinstance(result, ToolMessage):
            return result
        if result.goto or result.graph is not None or not isinstance(result.update, dict):
            return None
        messages = result.update.get("messages")
        found = [said for said in messages if isinstance(said, ToolMessage)] if isinstance(messages, list) else []
        return next((said for said in found if said.text == WAITING), None)


def passed(result: R, outcomes: Sequence[Outcome]) -> R:
    """Return what a tool returned as a model may read it: itself, where all of it passes.

    Raises:
        GuardrailError: an outcome is ``Failed``.
    """
    texts: list[str | None] = []
    for outcome in outcomes:
        if isinstance(outcome, Failed):
            raise outcome.error
        edited = outcome.text if isinstance(outcome, Edited) else None
        texts.append(outcome.response if isinstance(outcome, Blocked) else edited)
    if all(text is None for text in texts):
        return result
    changed: R = replaced(result, texts, error=any(isinstance(outcome, Blocked) for outcome in outcomes))
    return changed


def _ends(request: ToolCallRequest) -> bool:
    """Tell whether the run may end after this call: no step is left that would ask about its output."""
    state = request.state
    answered = state.get("structured_response") if isinstance(state, Mapping) else None
    return answered is not None or (request.tool is not None and request.tool.return_direct)


def guarded_tool(tool: BaseTool, stage: ToolStage) -> GuardedTool:
    """Return a tool behind a stage, to be given others by ``with_stage``."""
    return GuardedTool(inner=tool, stage=stage)
