"""``GuardrailMiddleware``: every rail around an agent made by ``create_agent``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from langchain.agents.middleware import (
    AgentMiddleware,
    ExtendedModelResponse,
    ModelRequest,
    ModelResponse,
    Runtime,
    ToolCallRequest,
    TracePolicy,
    hook_config,
    omit_payload,
)
from langchain.agents.structured_output import StructuredOutputError
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.tools import BaseTool
from langgraph.types import Command

from guardrail_langchain.held import GuardrailState
from guardrail_langchain.input_rail import InputJudgement, at_the_end
from guardrail_langchain.model_call import ModelCall
from guardrail_langchain.review import Review
from guardrail_langchain.settings import AgentRail, Settings
from guardrail_langchain.tool_call import ToolCall, guarded_tool
from guardrail_plugin import Policy, ToolPolicy
from guardrail_plugin.core.policy import OnFailure
from guardrail_plugin.flow import OnEscalate, Release, WindowSetting
from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.runnables import GuardedTool

_KNOWN_TOOLS = 256
"""Guarded twins of tools that are kept: making one reads the tool's schema."""

Update = dict[str, Any] | None


class GuardrailMiddleware(AgentMiddleware[GuardrailState, Any, Any]):
    """Rails around an agent: what users say, what the model says, what tools are told and tell.

    - **Input**: each user turn once, when it is new: before the run, or, where it is added to one
      (``Command(resume=..., update=...)``, a tool's ``Command``), before the model reads it. A blocked turn is answered
      without the model; its text is replaced in the state, so that no later call reads it. A summary that
      ``SummarizationMiddleware`` puts in place of old turns is judged on its own, and left out where it does not pass.
      With the rail ``"tools"``, outputs of tools that a caller brings are judged too, whatever tool they name.
    - **Output**: held back and judged window by window, whoever listens: ``stream_mode="messages"``, ``"updates"``,
      ``"values"``, events v1 to v3. A blocked answer is replaced under its id and ends the run.
    - **Tools**: a blocked call is answered with an error message, and its siblings go on; neither streams nor state
      show its arguments. A tool's output is judged before the model, or any listener, has it.
    - ``"escalate"`` pauses the graph (needs a checkpointer) until ``Command(resume="allow" | "block" | text)``; see
      ``held_messages``. With ``on_escalate`` that function decides instead.

    **List it last**: the last middleware stands next to the model, so that what the others do to requests and models
    is judged too. An answer that got past it all the same (a fallback model, a cache) is judged before it is kept.
    Several can stack: each judges what those before it in the list let through. Of answers and outputs of tools only
    the last of them asks by pausing the graph; the others block them on ``"escalate"``, unless ``on_escalate`` decides.

    LangGraph saves what a user says before any middleware runs: put ``GuardedSaver`` around the checkpointer, and no
    checkpoint holds a blocked text, nor one that waits for a person.

    Does not: hold back what a tool writes to a stream itself (the custom stream, ``emit_output_delta``); ask about
    structured answers, nor about outputs in a ``Command`` that goes elsewhere or holds several of them, of tools that
    return directly, or beside a structured answer: with ``"escalate"`` these are blocked, since what is made of them
    comes before the step that would be paused (``on_escalate`` is asked about all); remove the arguments of a tool
    call that a person refused from the model's message; judge images or audio; judge, before one model call has read
    it, what is added while the graph is halted right before the model (``interrupt_before=["model"]``); ask again
    about a turn to which a message is added together with the decision; remember ``GuardrailOverrides``: a paused run
    is resumed with the same context; keep, beyond this process, the verdict that a person is asked with about a user's
    turn or a tool's arguments: elsewhere the resumed run judges anew; with ``on_block="raise"``, take the message that
    was blocked out of the thread: it is judged again with the next one, and raises again, until
    ``RemoveMessage(id=...)``, which may come with the next message, has removed it. What waits for a person is in
    streams of the state, packed but not encrypted: keep ``guardrail_held`` from clients."""

    state_schema = GuardrailState
    trace_policy = TracePolicy(process_inputs=omit_payload, process_outputs=omit_payload)

    def __init__(
        self,
        *,
        guardian: GuardianProtocol,
        policy: Policy | None = None,
        tools: ToolPolicy | None = None,
        rails: Sequence[AgentRail] = ("input", "output", "tools"),
        window: WindowSetting = "sentence",
        release: Release = "checked",
        on_uncheckable: OnFailure = "block",
        on_escalate: OnEscalate | None = None,
        context_turns: int = 6,
        name: str | None = None,
    ) -> None:
        """Check the settings.

        Args:
            guardian: who judges.
            policy: when to act. ``None``: the guardian's calibrated thresholds, block, closed on failure.
            tools: exceptions by tool name.
            rails: ``"input"``, ``"output"``, ``"tools"``.
            window: how much of an answer a check waits for: ``"sentence"``, a number of words, or ``"answer"``.
            release: ``"checked"``, or ``"optimistic"``: text leaves at once, and is taken back when it is blocked.
            on_uncheckable: what happens where there is no text to judge, and to images and files beside text.
            on_escalate: whom to ask in place of pausing the graph.
            context_turns: earlier user and assistant turns that the guardian sees.
            name: names the graph's nodes. ``None``: made from the settings, so that several can stack. Set it where
                paused threads must outlive a change of settings.

        Raises:
            ConfigError: a setting is wrong; the message names it.
        """
        super().__init__()
        self._settings = Settings(
            guardian=guardian,
            policy=policy if policy is not None else Policy(),
            tools=tools if tools is not None else ToolPolicy(),
            rails=rails,
            window=window,
            release=release,
            on_uncheckable=on_uncheckable,
            on_escalate=on_escalate,
            context_turns=context_turns,
        )
        self._name = name if name is not None else self._settings.name()
        self._twins: OrderedDict[int, GuardedTool] = OrderedDict()
        self.tools = ()

    @property
    def name(self) -> str:
        """What its nodes and spans are called."""
        return self._name

    def __repr__(self) -> str:
        return f"GuardrailMiddleware({self._name!r})"

    @hook_config(can_jump_to=["end"])
    def before_agent(self, state: GuardrailState, runtime: Runtime[Any]) -> Update:
        """Judge what the user said since the last run."""
        settings = self._settings.under(runtime.context)
        return InputJudgement(state, settings, by=self._name, begins=True).run()

    @hook_config(can_jump_to=["end"])
    async def abefore_agent(self, state: GuardrailState, runtime: Runtime[Any]) -> Update:
        """Like ``before_agent``. Cancellation: passes to the guardian."""
        settings = self._settings.under(runtime.context)
        return await InputJudgement(state, settings, by=self._name, begins=True).arun()

    @hook_config(can_jump_to=["end"])
    def before_model(self, state: GuardrailState, runtime: Runtime[Any]) -> Update:
        """Ask about tool outputs that wait for a person; judge what was added as a user's since the run began."""
        reviewed = Review(state, self._settings, by=self._name, kind=ToolMessage).run()
        settings = self._settings.under(runtime.context)
        judgement = InputJudgement(state, settings, by=self._name, begins=False, reviewed=_messages(reviewed))
        return _both(reviewed, judgement.run())

    @hook_config(can_jump_to=["end"])
    async def abefore_model(self, state: GuardrailState, runtime: Runtime[Any]) -> Update:
        """Like ``before_model``. Cancellation: passes to the guardian."""
        reviewed = await Review(state, self._settings, by=self._name, kind=ToolMessage).arun()
        settings = self._settings.under(runtime.context)
        judgement = InputJudgement(state, settings, by=self._name, begins=False, reviewed=_messages(reviewed))
        return _both(reviewed, await judgement.arun())

    @hook_config(can_jump_to=["end"])
    def after_model(self, state: GuardrailState, runtime: Runtime[Any]) -> Update:
        """Ask about an answer that waits for a person; end the run where an answer was blocked."""
        return Review(state, self._settings, by=self._name, kind=AIMessage).run()

    @hook_config(can_jump_to=["end"])
    async def aafter_model(self, state: GuardrailState, runtime: Runtime[Any]) -> Update:
        """Like ``after_model``. Cancellation: passes to the guardian."""
        return await Review(state, self._settings, by=self._name, kind=AIMessage).arun()

    def after_agent(self, state: GuardrailState, runtime: Runtime[Any]) -> Update:
        """Note outputs of tools after which a run ends."""
        return at_the_end(state, self._settings.under(runtime.context), by=self._name)

    async def aafter_agent(self, state: GuardrailState, runtime: Runtime[Any]) -> Update:
        """Like ``after_agent``."""
        return self.after_agent(state, runtime)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Hold the model's answer back until it is judged."""
        settings = self._settings.under(request.runtime.context)
        if "output" not in settings.rails:
            return handler(request)
        call = ModelCall(request, settings, by=self._name)
        try:
            response = handler(call.request)
        except StructuredOutputError:
            if call.blocked is None:
                raise
            return call.blocked
        return call.finish(response)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Like ``wrap_model_call``. Cancellation: passes to the model and the guardian."""
        settings = self._settings.under(request.runtime.context)
        if "output" not in settings.rails:
            return await handler(request)
        call = ModelCall(request, settings, by=self._name)
        try:
            response = await handler(call.request)
        except StructuredOutputError:
            if call.blocked is None:
                raise
            return call.blocked
        return await call.afinish(response)

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        """Judge a tool's arguments and its output."""
        settings = self._settings.under(request.runtime.context)
        if "tools" not in settings.rails:
            return handler(request)
        call = ToolCall(request, settings, self._twin(request.tool, settings), by=self._name)
        refusal = call.refusal()
        result = refusal if refusal is not None else call.run(handler)
        settings.own.note(result)
        return result

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]]
    ) -> ToolMessage | Command[Any]:
        """Like ``wrap_tool_call``. Cancellation: passes to the tool and the guardian."""
        settings = self._settings.under(request.runtime.context)
        if "tools" not in settings.rails:
            return await handler(request)
        call = ToolCall(request, settings, self._twin(request.tool, settings), by=self._name)
        refusal = await call.arefusal()
        result = refusal if refusal is not None else await call.arun(handler)
        settings.own.note(result)
        return result

    def _twin(self, tool: BaseTool | None, settings: Settings) -> GuardedTool | None:
        if tool is None:
            return None
        if isinstance(tool, GuardedTool):
            return guarded_tool(tool, settings.tool_stage(None))  # another guard may have made it for this one call
        known = self._twins.get(id(tool))
        if known is None or known.inner is not tool:
            known = guarded_tool(tool, settings.tool_stage(None))
            self._twins[id(tool)] = known
            while len(self._twins) > _KNOWN_TOOLS:
                self._twins.popitem(last=False)
        return known


def _both(one: Update, other: Update) -> Update:
    if one is None or other is None:
        return one or other
    messages = [*_messages(one), *_messages(other)]
    return {**one, **other, **({"messages": messages} if messages else {})}


def _messages(update: Update) -> list[BaseMessage]:
    return list((update or {}).get("messages", ()))
