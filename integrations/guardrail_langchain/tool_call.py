"""One tool call of an agent: judge the call before the tool runs, and its output before the model reads it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from uuid import uuid4

from langchain.agents.middleware import ToolCallRequest
from langchain_core.messages import FunctionMessage, ToolMessage
from langchain_core.runnables.config import ensure_config
from langchain_core.tools import BaseTool
from langgraph.errors import GraphInterrupt, ParentCommand
from langgraph.prebuilt.tool_node import msg_content_output
from langgraph.types import Command

from guardrail_langchain.held import WAITING, Aside, entry, put_inside
from guardrail_langchain.settings import Settings
from guardrail_plugin import Check, Verdict
from guardrail_plugin.flow import Allowed, Blocked, Edited, Failed, Outcome, describe
from guardrail_plugin.flow.tool_rails import OUTPUT_BLOCKED
from guardrail_plugin.runnables import (
    GuardedTool,
    Handle,
    ToolStage,
    aunder_config,
    messages_of,
    replaced,
    texts_of,
    under_config,
)

Result = ToolMessage | Command[Any]
R = TypeVar("R", bound=Result | FunctionMessage)


class _Aside(Aside):
    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings

    def __call__(self, verdict: Verdict, check: Check) -> str:
        if check.rail == "tool_call":
            return self._settings.ask(
                verdict, check
            )  # the arguments are in the state: a second run asks about the same ones
        return super().__call__(verdict, check)


class ToolCall:
    """The tool rails of one call. Made for one ``wrap_tool_call``.

    Attributes:
        request: the request with the guarded tool in it.
    """

    def __init__(self, request: ToolCallRequest, settings: Settings, guarded: GuardedTool | None, *, by: str) -> None:
        self._by = by
        self._aside = _Aside(settings)
        self._given: list[object] = []
        self._settings = settings
        self._name: str = request.tool_call["name"]
        self._id = request.tool_call["id"] or ""
        self._arguments = request.tool_call["args"]
        self._stage = settings.tool_stage(self._aside)
        raises = settings.policy.on_block == "raise"
        self._ends = _ends(request)
        self._tool = None
        self.request = request
        if guarded is not None:
            handle: Handle = "raise" if raises else "message"
            self._tool = guarded.with_stage(self._stage, handle=handle, on_replaced=self._given.append)
            if isinstance(guarded.inner, GuardedTool):
                put_inside(guarded.inner.stage.rules.on_escalate)
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

    def run(self, handler: Callable[[ToolCallRequest], Result]) -> Result:
        """Make the call. Returns the result as the model may read it.

        Raises:
            ParentCommand: the result, where a sub-agent inside the tool writes it into the graph above.
        """
        sent = False
        try:
            result = handler(self.request)
        except ParentCommand as error:
            result, sent = error.args[0], True
        except GraphInterrupt:  # the tool asks somebody itself
            self._settings.keep()
            raise
        if not self._judged:
            result = _unseen(result)
            texts = self._stage.texts(self._name, result)
            outcomes = self._stage.outputs(self._name, texts, under_config(ensure_config()))
            result = self._passed(result, outcomes)
        return self._settled(result, sent=sent)

    async def arun(self, handler: Callable[[ToolCallRequest], Awaitable[Result]]) -> Result:
        """Like ``run``. Cancellation: passes to the tool and the guardian."""
        sent = False
        try:
            result = await handler(self.request)
        except ParentCommand as error:
            result, sent = error.args[0], True
        except GraphInterrupt:  # the tool asks somebody itself
            self._settings.keep()
            raise
        if not self._judged:
            result = _unseen(result)
            texts = self._stage.texts(self._name, result)
            outcomes = await self._stage.aoutputs(self._name, texts, aunder_config(ensure_config()))
            result = self._passed(result, outcomes)
        return self._settled(result, sent=sent)

    @property
    def _judged(self) -> bool:
        """Tell whether the guarded tool made the result: not an error handler, nor another middleware."""
        return self._tool is not None and self._tool.answered

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

    def _passed(self, result: Result, outcomes: Sequence[Outcome]) -> Result:
        self._given.append(result)
        return passed(result, outcomes)

    def _settled(self, result: Result, *, sent: bool) -> Result:
        result = self._put_aside(result)
        if sent and isinstance(result, Command):
            raise ParentCommand(result)
        return result

    def _put_aside(self, result: Result) -> Result:
        """Return the result, and what of it waits for a person in the graph's state."""
        if not self._aside.verdicts:
            return result
        verdict = self._aside.verdicts[-1]
        waiting = self._waiting(result)
        if waiting is None:
            hazard = f" ({verdict.hazard})" if verdict.hazard else ""
            reason = OUTPUT_BLOCKED.format(hazard=hazard)
            withheld = [reason if said == WAITING else None for said in texts_of(result)]
            refused: Result = replaced(result, withheld, error=True)
            return refused
        message, given = waiting
        message.id = message.id or str(uuid4())
        update = {"id": message.id, "name": message.name, "content": msg_content_output(given.content)}
        held = entry(given.model_copy(update=update), verdict, by=self._by)
        kept = {"guardrail_held": {message.id: held}}
        if isinstance(result, ToolMessage):
            return Command(update={"messages": [result], **kept})
        return replace(result, update={**(result.update or {}), **kept})

    def _waiting(self, result: Result) -> tuple[ToolMessage, ToolMessage] | None:
        """Return the message that stands for what a person is asked about, and what the tool gave in its place.

        ``None``: it cannot be told from others, or the run goes on, or ends, where nobody would ask.
        """
        if len(self._aside.verdicts) != 1 or self._ends or not self._given:
            return None
        kept = [message for message in _kept(result) if isinstance(message, ToolMessage) and message.text == WAITING]
        for now, given in zip(messages_of(result), messages_of(self._given[-1]), strict=False):
            if isinstance(given, ToolMessage) and kept and now is kept[0]:
                return kept[0], given
        return None


def _unseen(result: Result) -> Result:
    """Return a result without what another guard put aside: these rails would judge the words that stand in for it."""
    if not isinstance(result, Command) or not isinstance(result.update, dict) or "guardrail_held" not in result.update:
        return result
    update = {key: value for key, value in result.update.items() if key != "guardrail_held"}
    withheld = [OUTPUT_BLOCKED.format(hazard="") if said == WAITING else None for said in texts_of(result)]
    refused: Result = replaced(replace(result, update=update), withheld, error=True)
    return refused


def _kept(result: Result) -> list[Any]:
    """Return what a result puts into the messages of the graph, which goes on where it would have gone on."""
    if isinstance(result, ToolMessage):
        return [result]
    # LangGraph also takes lists of both.
    if not isinstance(result, Command) or result.goto or result.graph is not None:
        return []
    messages = result.update.get("messages") if isinstance(result.update, dict) else None
    return messages if isinstance(messages, list) else []


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
