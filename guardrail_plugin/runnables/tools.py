"""``GuardedTool``: a tool whose calls and outputs are judged, for agents, chains and direct use."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass, replace
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_type_hints

from langchain_core.callbacks import AsyncCallbackManagerForToolRun, CallbackManager, CallbackManagerForToolRun
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import set_config_context
from langchain_core.runnables.utils import coro_with_context
from langchain_core.tools import BaseTool, Tool, ToolException
from langchain_core.utils.pydantic import TypeBaseModel
from pydantic import ConfigDict, Field, PrivateAttr, SkipValidation
from typing_extensions import override

from guardrail_plugin.core.errors import BlockedError, GuardrailError
from guardrail_plugin.flow import Allowed, Blocked, Edited, Failed, Outcome, describe
from guardrail_plugin.runnables.detached import detached
from guardrail_plugin.runnables.failures import is_control_flow, listeners, words_of
from guardrail_plugin.runnables.gate import await_verdict, wait_for_verdict
from guardrail_plugin.runnables.tool_outputs import as_content, holds_messages, replaced
from guardrail_plugin.runnables.tool_stage import ToolStage, edited_arguments
from guardrail_plugin.runnables.withheld import refusal_of

Handle: TypeAlias = Literal["message", "raise"]
OnReplaced: TypeAlias = Callable[[Any], None]
"""Told what a tool returned, as messages, where something of it is replaced."""

_SIMPLE = {
    "title": "tool",
    "type": "object",
    "properties": {"__arg1": {"title": "__arg1", "type": "string"}},
    "required": ["__arg1"],
}
"""What LangChain shows models of a ``Tool`` without a schema; only for that very class."""

_CALL_ID = "__guardrail_tool_call_id"
_EDIT_UNREADABLE = "This tool call was not made: the edited arguments are no JSON object."


class ToolBlockedError(BlockedError, ToolException):
    """A guarded tool blocked, and ``handle="raise"``. The tool's own ``handle_tool_error`` applies to it."""


class GuardedTool(BaseTool):
    """A tool behind rails. Made by ``guard_tool()``, which documents the settings.

    Its name, description and schema are the inner tool's. What runs inside is detached from the caller's callbacks:
    these hear of the call and of the judged output.

    What an exception says is judged like an output, as whoever catches it may show it to the model: what is blocked of
    it is not raised. Of what it was raised from, and of the errors in a group, too: tracebacks and traces print these.
    So are messages in a command to the graph above, which a sub-agent inside the tool raises.

    Does not: judge artifacts (no model reads them), other values in a ``Command``'s update than messages, or what its
    ``Send`` carries; hold back what the tool writes to a stream itself (``stream_writer``, ``emit_output_delta``).
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    inner: BaseTool = Field(exclude=True)
    handle: Handle = "message"
    stage: Annotated[ToolStage, SkipValidation] = Field(exclude=True, repr=False)

    _hidden: frozenset[str] = PrivateAttr()
    _answered: bool = PrivateAttr(default=False)
    _on_replaced: OnReplaced | None = PrivateAttr(default=None)

    def __init__(self, *, inner: BaseTool, stage: ToolStage, handle: Handle = "message") -> None:
        given: dict[str, Any] = {name: getattr(inner, name) for name in BaseTool.model_fields}
        super().__init__(**given, inner=inner, stage=stage, handle=handle)
        self._hidden = _injected(inner)

    @property
    def answered(self) -> bool:
        """Whether a call has come through its rails. Of use where it is made for one call, as by ``with_stage``."""
        return self._answered

    def with_stage(self, stage: ToolStage, *, handle: Handle, on_replaced: OnReplaced | None = None) -> GuardedTool:
        """Return the same tool behind other rails.

        Args:
            on_replaced: told what the tool returned, before something of it is replaced.
        """
        twin = self.model_copy(update={"stage": stage, "handle": handle})
        twin._answered = False
        twin._on_replaced = on_replaced
        return twin

    @property
    def func(self) -> Callable[..., Any] | None:
        """The inner tool's function, for those who look for injected parameters in its signature."""
        return getattr(self.inner, "func", None)

    @property
    def coroutine(self) -> Callable[..., Any] | None:
        """Like ``func``, for async tools."""
        return getattr(self.inner, "coroutine", None)

    @property
    @override
    def args(self) -> dict[str, Any]:
        return self.inner.args

    @property
    @override
    def tool_call_schema(self) -> Any:
        return _SIMPLE if isinstance(self.inner, Tool) and not self.inner.args_schema else self.inner.tool_call_schema

    @override
    def get_input_schema(self, config: RunnableConfig | None = None) -> TypeBaseModel:
        return self.inner.get_input_schema(config)

    @property
    @override
    def _injected_args_keys(self) -> frozenset[str]:
        return self.inner._injected_args_keys

    @override
    def _to_args_and_kwargs(
        self, tool_input: str | dict[str, Any], tool_call_id: str | None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        written = tool_input if isinstance(tool_input, str) else self._written(tool_input)
        if not isinstance(written, str) and refusal_of(written) is not None:
            return (), {**written, _CALL_ID: tool_call_id}  # fits no schema, and never reaches the tool
        args, kwargs = self.inner._to_args_and_kwargs(tool_input, tool_call_id)
        return args, {**kwargs, _CALL_ID: tool_call_id}

    @override
    def _run(
        self, *args: Any, config: RunnableConfig, run_manager: CallbackManagerForToolRun | None = None, **kwargs: Any
    ) -> Any:
        call_id = kwargs.pop(_CALL_ID, None)
        outcome = self.stage.call(self.name, self._shown(args, kwargs), run_manager)
        admitted = self._admitted(outcome, args, kwargs, call_id)
        if admitted is None:
            return self._refused(outcome, call_id)
        args, kwargs = admitted
        wait_for_verdict()
        inner = _inside(config, run_manager)
        kwargs = _unheard(kwargs, inner) | _wanted(self.inner._run, inner, CallbackManagerForToolRun.get_noop_manager())
        kwargs |= {_CALL_ID: call_id} if isinstance(self.inner, GuardedTool) else {}
        failed, failure = False, None
        with set_config_context(inner) as context:
            try:
                output = context.run(self.inner._run, *args, **kwargs)
            except Exception as error:
                failed, (output, failure) = True, self._told(error)
        content, artifact = self._split(output, failed=failed)
        judged = self.stage.outputs(self.name, self.stage.texts(self.name, content), run_manager)
        try:
            return self._passed(content, artifact, judged, failed=failed, failure=failure, call_id=call_id)
        finally:
            del failure  # its traceback holds this frame: the two would keep each other

    @override
    async def _arun(
        self,
        *args: Any,
        config: RunnableConfig,
        run_manager: AsyncCallbackManagerForToolRun | None = None,
        **kwargs: Any,
    ) -> Any:
        call_id = kwargs.pop(_CALL_ID, None)
        outcome = await self.stage.acall(self.name, self._shown(args, kwargs), run_manager)
        admitted = self._admitted(outcome, args, kwargs, call_id)
        if admitted is None:
            return self._refused(outcome, call_id)
        args, kwargs = admitted
        await await_verdict()
        inner = _inside(config, run_manager)
        plain = type(self.inner)._arun is BaseTool._arun
        runs = self.inner._run if plain else self.inner._arun
        kwargs = _unheard(kwargs, inner) | _wanted(runs, inner, AsyncCallbackManagerForToolRun.get_noop_manager())
        kwargs |= {_CALL_ID: call_id} if isinstance(self.inner, GuardedTool) else {}
        failed, failure = False, None
        with set_config_context(inner) as context:
            try:
                output = await coro_with_context(self.inner._arun(*args, **kwargs), context)
            except Exception as error:
                failed, (output, failure) = True, self._told(error)
        content, artifact = self._split(output, failed=failed)
        judged = await self.stage.aoutputs(self.name, self.stage.texts(self.name, content), run_manager)
        try:
            return self._passed(content, artifact, judged, failed=failed, failure=failure, call_id=call_id)
        finally:
            del failure  # its traceback holds this frame: the two would keep each other

    def _shown(self, args: Sequence[Any], kwargs: dict[str, Any]) -> object:
        """Return what the model wrote: the arguments without those that were injected."""
        named = self._written(kwargs)
        if not args:
            return named
        return args[0] if len(args) == 1 and not named else [*args, named]

    def _written(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in arguments.items() if key not in self._hidden}

    def _admitted(
        self, outcome: Outcome, args: tuple[Any, ...], kwargs: dict[str, Any], call_id: str | None
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Return the arguments with which the tool is called; ``None``: it is not called."""
        if isinstance(outcome, Allowed):
            return args, kwargs
        arguments = edited_arguments(self.name, outcome.text) if isinstance(outcome, Edited) else None
        if arguments is None:
            return None
        injected = {key: value for key, value in kwargs.items() if key in self._hidden}
        return self.inner._to_args_and_kwargs({**arguments, **injected}, call_id)

    def _split(self, output: Any, *, failed: bool) -> tuple[Any, Any]:
        if failed or self.response_format != "content_and_artifact":
            return output, None
        if not isinstance(output, tuple) or len(output) != 2:
            raise ValueError(f"a tool with response_format='content_and_artifact' returned a {type(output).__name__}")
        return output

    def _told(self, error: Exception) -> tuple[Any, Exception | None]:
        """Return what is judged of a failure, and what is raised if that passes; ``None``: the tool handles it itself.

        A model may read either: who catches an error, ToolNode or a middleware, writes down what it says.

        Raises:
            Exception: it says nothing that a tool could have read: LangGraph's interrupts, errors of this library.
        """
        handler = self.handle_tool_error
        if isinstance(error, ToolException) and handler:
            try:
                said = handler(error) if callable(handler) else handler
            except Exception as raised:
                error = raised
            else:
                return (error.args or ("Tool execution error",))[0] if handler is True else said, None
        if is_control_flow(error) and error.args and holds_messages(error.args[0]):
            return error.args[0], error
        if isinstance(error, GuardrailError) or is_control_flow(error):
            raise error
        return words_of(error), error

    def _passed(
        self,
        content: Any,
        artifact: Any,
        outcomes: Sequence[Outcome],
        *,
        failed: bool,
        failure: Exception | None,
        call_id: str | None,
    ) -> Any:
        self._answered = True
        texts: list[str | None] = []
        for outcome in outcomes:
            if isinstance(outcome, Failed):
                raise outcome.error
            if isinstance(outcome, Blocked) and self.handle == "raise":
                raise ToolBlockedError(outcome.verdict, rail=outcome.rail) from outcome.error
            text = outcome.text if isinstance(outcome, Edited) else None
            texts.append(outcome.response if isinstance(outcome, Blocked) else text)
        if all(text is None for text in texts):
            if failure is not None:
                try:
                    raise failure
                finally:
                    del failure
            return self._shaped(self._failure(content, call_id) if failed else content, artifact)
        if self._on_replaced is not None:
            given = content if holds_messages(content) else self._whole(content, artifact, call_id, failed=failed)
            self._on_replaced(given)
        blocked = next((outcome for outcome in outcomes if isinstance(outcome, Blocked)), None)
        if blocked is not None and not holds_messages(content):
            return self._answer(blocked.response, blocked, call_id)
        command = failure is not None and is_control_flow(failure)
        changed = replaced(content, texts, error=blocked is not None or (failed and not command))
        if failure is not None and command:
            raise type(failure)(changed)
        return self._shaped(self._failure(changed, call_id) if failed else changed, None)

    def _refused(self, outcome: Outcome, call_id: str | None) -> Any:
        if isinstance(outcome, Failed):
            raise outcome.error
        if isinstance(outcome, Edited):
            return self._answer(_EDIT_UNREADABLE, outcome, call_id)
        if not isinstance(outcome, Blocked):
            raise AssertionError("a call that goes on is not refused")
        if self.handle == "raise":
            raise ToolBlockedError(outcome.verdict, rail=outcome.rail) from outcome.error
        return self._answer(outcome.response, outcome, call_id)

    def _answer(self, reason: str, outcome: Outcome, call_id: str | None) -> Any:
        self._answered = True
        if call_id is None:
            return self._shaped(reason, None)
        fields = describe(outcome, policy_version=self.stage.rules.policy.version)
        return self._shaped(
            ToolMessage(
                content=reason,
                tool_call_id=call_id,
                name=self.name,
                status="error",
                response_metadata={"guardrail": fields},
            ),
            None,
        )

    def _failure(self, content: Any, call_id: str | None) -> Any:
        if call_id is None or not isinstance(content, str):
            return content
        return self._whole(content, None, call_id, failed=True)

    def _whole(self, content: Any, artifact: Any, call_id: str | None, *, failed: bool) -> ToolMessage:
        return ToolMessage(
            content=as_content(content),
            artifact=artifact,
            tool_call_id=call_id or "",
            name=self.name,
            status="error" if failed else "success",
        )

    def _shaped(self, content: Any, artifact: Any) -> Any:
        return (content, artifact) if self.response_format == "content_and_artifact" else content


def _injected(tool: BaseTool) -> frozenset[str]:
    """Return the names of arguments that no model writes: state, stores, ids."""
    hidden = frozenset(tool._injected_args_keys) | {_CALL_ID}
    try:
        full = getattr(tool.get_input_schema(), "model_fields", {})
        shown = getattr(tool.tool_call_schema, "model_fields", None)
    except (TypeError, NotImplementedError):
        return hidden
    return hidden if shown is None else hidden | (full.keys() - shown.keys())


def _inside(
    config: RunnableConfig, run: CallbackManagerForToolRun | AsyncCallbackManagerForToolRun | None
) -> RunnableConfig:
    """Return the config of the tool inside: unheard, but in a run, which those who dispatch custom events ask for."""
    inner = detached(config)
    if run is not None:
        heard = listeners(inner["callbacks"])
        inner["callbacks"] = CallbackManager(heard, [*heard], parent_run_id=run.run_id)
    return inner


def _unheard(kwargs: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
    """Put the config in place of the one that LangGraph's ``ToolRuntime`` brings along."""
    return {key: replace(value, config=config) if _is_runtime(value) else value for key, value in kwargs.items()}


def _is_runtime(value: Any) -> bool:
    return is_dataclass(value) and all(hasattr(value, name) for name in ("config", "tool_call_id", "stream_writer"))


def _wanted(function: Callable[..., Any], config: RunnableConfig, manager: object) -> dict[str, Any]:
    """Return those of config and run manager that a tool's function takes, as ``BaseTool.run`` passes them."""
    given: dict[str, Any] = {}
    if "run_manager" in inspect.signature(function).parameters:
        given["run_manager"] = manager
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError):
        hints = {}
    for name, hint in hints.items():
        if hint is RunnableConfig or RunnableConfig in get_args(hint):
            given[name] = config
            break
    return given
