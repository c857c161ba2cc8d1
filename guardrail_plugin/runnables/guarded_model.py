"""``GuardedChatModel``: a chat model whose answers are held back until they are judged, wherever they are listened to.

Callbacks, ``astream_events``, LangGraph's ``stream_mode="messages"`` and its v3 events all hear this model, which
says only what was released; the model inside runs unheard.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, TypeAlias

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, BaseLanguageModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, BaseMessage, message_chunk_to_message
from langchain_core.messages.ai import AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import ensure_config
from pydantic import ConfigDict, Field, SkipValidation
from typing_extensions import override

from guardrail_plugin.core.errors import InputError
from guardrail_plugin.flow import Allowed, Edited, Outcome
from guardrail_plugin.runnables import detached
from guardrail_plugin.runnables.answer_files import files_in
from guardrail_plugin.runnables.answers import Asked, every_call
from guardrail_plugin.runnables.blocks import client_calls
from guardrail_plugin.runnables.inner_models import marks_of, model_in, with_tools
from guardrail_plugin.runnables.model_chunks import Leaving, Orders, as_message, ateed, charged, generation, teed
from guardrail_plugin.runnables.model_events import CopiedForCalls
from guardrail_plugin.runnables.output_stage import OutputStage
from guardrail_plugin.runnables.parents import ModelRun, aunder_model, under_model
from guardrail_plugin.runnables.streams import closing, joined
from guardrail_plugin.runnables.tool_stage import ToolStage
from guardrail_plugin.runnables.views import read_input
from guardrail_plugin.runnables.withheld import refusal_of, withhold


@dataclass(frozen=True, slots=True)
class Ended:
    """How one answer ended. ``repr`` shows no text.

    Attributes:
        message_id: the id that the answer has, whatever became of it.
        instead: what belongs into histories in place of the answer; ``None``: the answer itself.
        original: the answer as the model gave it, where a person edited or put off the decision.
        text: what was let out: the answer's text, or the end of it that stands in for the rest.
        calls: what was ordered, before single calls were withheld.
        files: kinds of what was let out that no rail can read.
    """

    outcome: Outcome
    message_id: str | None
    instead: AIMessage | None = field(default=None, repr=False)
    original: AIMessage | None = field(default=None, repr=False)
    text: str = field(default="", repr=False)
    calls: tuple[tuple[str, object], ...] = field(default=(), repr=False)
    files: tuple[str, ...] = ()

    def made(self, message: AIMessage) -> bool:
        """Tell whether a message is this answer. Under LangChain's v3 events it has the id of an outer run."""
        said = message.text
        if said != self.text and not (self.text and self.instead is not None and said.endswith(self.text)):
            return False  # whatever its id: somebody has changed it since
        if any(call not in self.calls and refusal_of(call[1]) is None for call in client_calls(message)):
            return False
        if not set(files_in(message)) <= set(self.files):
            return False
        return bool(said) or (message.id is not None and message.id == self.message_id)


_FORM = "ls_structured_output_format"
"""With what LangChain marks a tool that is the form of an answer."""

OnEnded: TypeAlias = Callable[[Ended], None]
OnBind: TypeAlias = Callable[[Sequence[Any]], Mapping[str, Any]]


class GuardedChatModel(CopiedForCalls):
    """A chat model behind an output rail. Made by ``guard_model()`` and by agent middleware. Immutable.

    ``bind_tools`` binds the model inside and returns another guarded model. ``with_structured_output`` goes through
    tool calls, whatever the model inside can do besides.

    Does not: judge what the model is asked, or stop handlers that belong to the model inside (its own ``callbacks``).
    ``get_usage_metadata_callback()`` hears it and the model inside, and counts twice; in ``config["callbacks"]`` a
    ``UsageMetadataCallbackHandler`` counts once.

    Attributes:
        inner: the model, or one with tools and settings bound.
        stage: the output rail.
        calls: judges tool calls one by one, and withholds those that are blocked; ``None``: a blocked call blocks the
            answer.
        listeners: told how each answer ended.
        on_bind: told what tools are bound; returns fields of the model that they change.
        run: the call that this copy was made for; ``None`` outside of one.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    inner: Annotated[Runnable[LanguageModelInput, Any], SkipValidation] = Field(exclude=True, repr=False)
    stage: Annotated[OutputStage, SkipValidation] = Field(exclude=True, repr=False)
    calls: Annotated[ToolStage | None, SkipValidation] = Field(default=None, exclude=True, repr=False)
    listeners: tuple[OnEnded, ...] = Field(default=(), exclude=True, repr=False)
    on_bind: Annotated[OnBind | None, SkipValidation] = Field(default=None, exclude=True, repr=False)
    run: Annotated[ModelRun | None, SkipValidation] = Field(default=None, exclude=True, repr=False)
    context_turns: int = 6

    def __init__(
        self,
        *,
        inner: Runnable[LanguageModelInput, Any],
        stage: OutputStage,
        calls: ToolStage | None = None,
        listeners: tuple[OnEnded, ...] = (),
        on_bind: OnBind | None = None,
        context_turns: int = 6,
    ) -> None:
        given = {"inner": inner, "stage": stage, "calls": calls, "listeners": listeners, "on_bind": on_bind}
        profile = getattr(model_in(inner), "profile", None)
        # cache=False: the model inside caches, and knows the tools that are bound to it.
        super().__init__(**given, **marks_of(inner), context_turns=context_turns, cache=False, profile=profile)

    @property
    def model_name(self) -> str | None:
        """The name of the model inside, for those who ask a model what it can do."""
        model = model_in(self.inner)
        names = (getattr(model, key, None) for key in ("model_name", "model", "model_id"))
        return next((name for name in names if isinstance(name, str)), None)

    @property
    @override
    def _llm_type(self) -> str:
        model = model_in(self.inner)
        return model._llm_type if isinstance(model, BaseChatModel) else "guarded"

    @property
    @override
    def _serialized(self) -> dict[str, Any]:
        # Traces quote it with every call, and LangChain would make it anew for every copy.
        return {"lc": 1, "type": "not_implemented", "id": self.lc_id(), "name": self.get_name()}

    @override
    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        model = model_in(self.inner)
        if isinstance(model, BaseChatModel):
            return model._get_ls_params(stop=stop, **kwargs)
        return super()._get_ls_params(stop=stop, **kwargs)

    @override
    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """Bind tools to the model inside. What is bound to it already stays, but for other tools."""
        inner = with_tools(self.inner, tools, **kwargs)
        changed = {} if self.on_bind is None else self.on_bind(tools)
        if self.calls is not None and _FORM in kwargs:
            # with_structured_output binds the form of an answer, which is no tool: it is judged with the answer.
            changed = {**changed, "calls": None, "stage": replace(self.stage, calls=every_call)}
        return self.model_copy(update={"inner": inner, **changed})

    @override
    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        ended: list[Ended] = []
        run = ModelRun(config)
        message = BaseChatModel.invoke(self._for(run, ended.append), input, run.heard, stop=stop, **kwargs)
        return _for_history(message, ended)

    @override
    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        ended: list[Ended] = []
        run = ModelRun(config)
        message = await BaseChatModel.ainvoke(self._for(run, ended.append), input, run.heard, stop=stop, **kwargs)
        return _for_history(message, ended)

    @override
    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        model, heard = self._copied(config)
        yield from BaseChatModel.stream(model, input, heard, stop=stop, **kwargs)

    @override
    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        model, heard = self._copied(config)
        source = BaseChatModel.astream(model, input, heard, stop=stop, **kwargs)
        async with closing(source) as chunks:
            async for chunk in chunks:
                yield chunk

    def _for(self, run: ModelRun, *listeners: OnEnded) -> GuardedChatModel:
        """Return a copy that is used for one call."""
        return self.model_copy(update={"run": run, "listeners": (*self.listeners, *listeners)})

    @override
    def _copied(self, config: RunnableConfig | None) -> tuple[BaseChatModel, RunnableConfig]:
        run = ModelRun(config)
        return self._for(run), run.heard

    def _inside(self) -> RunnableConfig:
        """Return the config for the model inside."""
        return ensure_config() if self.run is None else self.run.inside

    @override
    def get_token_ids(self, text: str) -> list[int]:
        model = model_in(self.inner)
        return model.get_token_ids(text) if isinstance(model, BaseLanguageModel) else super().get_token_ids(text)

    @override
    def get_num_tokens(self, text: str) -> int:
        model = model_in(self.inner)
        return model.get_num_tokens(text) if isinstance(model, BaseLanguageModel) else super().get_num_tokens(text)

    @override
    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        model = model_in(self.inner)
        given = {} if tools is None else {"tools": tools}  # not every model takes them
        if isinstance(model, BaseLanguageModel):
            return model.get_num_tokens_from_messages(messages, **given)
        return super().get_num_tokens_from_messages(messages, **given)

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        parent = under_model(run_manager)
        answer = as_message(detached.invoke(self.inner, messages, self._inside(), parent, **_with(stop, kwargs)))
        [outcome] = self.stage.judge([answer], [self._asked(messages)], [parent])
        if self.calls is not None and isinstance(outcome, Allowed) and (ordered := client_calls(answer)):
            answer = withhold(answer, self.calls.ordered(ordered, parent))
        return self._result(answer, outcome)

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        """Cancellation: passes to the model inside and to the guardian."""
        parent = aunder_model(run_manager)
        said = await detached.ainvoke(self.inner, messages, self._inside(), parent, **_with(stop, kwargs))
        answer = as_message(said)
        [outcome] = await self.stage.ajudge([answer], [self._asked(messages)], [parent])
        if self.calls is not None and isinstance(outcome, Allowed) and (ordered := client_calls(answer)):
            answer = withhold(answer, await self.calls.aordered(ordered, parent))
        return self._result(answer, outcome)

    @override
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        parent = self.run.parent() if run_manager is None and self.run is not None else under_model(run_manager)
        seen: list[AIMessageChunk] = []
        source = detached.stream(self.inner, messages, self._inside(), parent, **_with(stop, kwargs))
        kept, leaving = Orders(self.calls), Leaving(seen)
        for left in self.stage.stream(
            teed(source, seen), self._asked(messages), parent, on_end=lambda *how: self._tell(seen, *how)
        ):
            chunk = leaving.leave(left)
            if not kept.keeps(chunk):
                yield generation(chunk)
        if self.calls is not None and (ordered := kept.calls()):
            kept.withhold(self.calls.ordered(ordered, parent))
        yield from map(generation, kept.chunks)

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        """Cancellation: passes to the model inside and to the guardian; nothing is left running."""
        parent = self.run.aparent() if run_manager is None and self.run is not None else aunder_model(run_manager)
        seen: list[AIMessageChunk] = []
        source = detached.astream(self.inner, messages, self._inside(), parent, **_with(stop, kwargs))
        kept, leaving = Orders(self.calls), Leaving(seen)
        checked = self.stage.astream(
            ateed(source, seen), self._asked(messages), parent, on_end=lambda *how: self._tell(seen, *how)
        )
        async with closing(checked) as chunks:
            async for left in chunks:
                chunk = leaving.leave(left)
                if not kept.keeps(chunk):
                    yield generation(chunk)
        if self.calls is not None and (ordered := kept.calls()):
            kept.withhold(await self.calls.aordered(ordered, parent))
        for chunk in kept.chunks:
            yield generation(chunk)

    def _asked(self, messages: Sequence[BaseMessage]) -> Asked:
        try:
            subject = read_input(messages, context_turns=self.context_turns)
        except InputError:
            return Asked()
        return Asked(getattr(subject, "text", None), getattr(subject, "context", ()))

    def _tell(self, seen: Sequence[AIMessageChunk], outcome: Outcome, message_id: str | None) -> None:
        """Tell the listeners how a stream ended."""
        if not self.listeners:
            return
        instead = original = None
        if not isinstance(outcome, Allowed):
            instead = charged(as_message(self.stage.passed(AIMessage("", id=message_id), outcome)), seen)
        if isinstance(outcome, Edited) and seen:
            original = as_message(message_chunk_to_message(joined(seen)))
        said = joined(seen) if seen and instead is None else AIMessage("")
        text = instead.text if instead is not None else "".join(chunk.text for chunk in seen)
        self._ended(Ended(outcome, message_id, instead, original, text, tuple(client_calls(said)), files_in(said)))

    def _result(self, answer: AIMessage, outcome: Outcome) -> ChatResult:
        """Return a whole answer's result, and tell the listeners."""
        passed = as_message(self.stage.passed(answer, outcome))
        changed = not isinstance(outcome, Allowed)
        if changed:
            charged(passed, [answer])
        if self.listeners:
            instead, original = passed if changed else None, answer if isinstance(outcome, Edited) else None
            calls, files = tuple(client_calls(passed)), files_in(passed)
            self._ended(Ended(outcome, answer.id, instead, original, passed.text, calls, files))
        return ChatResult(generations=[ChatGeneration(message=passed)])

    def _ended(self, how: Ended) -> None:
        for listener in self.listeners:
            listener(how)


def _with(stop: list[str] | None, kwargs: dict[str, Any]) -> dict[str, Any]:
    return kwargs if stop is None else {**kwargs, "stop": stop}


def _for_history(message: AIMessage, ended: Sequence[Ended]) -> AIMessage:
    """Return what stands in for a blocked answer without the windows of it that had left as a stream."""
    instead = ended[-1].instead if ended else None
    if instead is None:
        return message
    return instead.model_copy(update={"id": message.id, "usage_metadata": message.usage_metadata})
