"""``GuardedRunnable``: rails around any Runnable, and a responder in its place."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Annotated, Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.runnables import Runnable, RunnableConfig, RunnableSerializable
from langchain_core.runnables.graph import Graph
from langchain_core.runnables.utils import ConfigurableFieldSpec, Input, Output
from langchain_core.utils.pydantic import TypeBaseModel
from pydantic import ConfigDict, Field, PrivateAttr, SkipValidation
from typing_extensions import Self, override

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.policy import OnFailure, Policy
from guardrail_plugin.core.verdict import Verdict
from guardrail_plugin.flow import OnEscalate, Release, WindowSetting
from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.runnables.answers import OutputText
from guardrail_plugin.runnables.bind_first import BindFirst
from guardrail_plugin.runnables.calls import Calls
from guardrail_plugin.runnables.construction import GuardRail, Settings, build_calls, check_rails
from guardrail_plugin.runnables.input_keys import InputKey
from guardrail_plugin.runnables.stage import OnBlock
from guardrail_plugin.runnables.streams import closing, joined
from guardrail_plugin.runnables.verdict_only import VerdictOnly


class GuardedRunnable(BindFirst, RunnableSerializable[Input, Output]):
    """A Runnable behind rails. Made by ``guard()``, which documents the settings. Immutable.

    Every path (invoke, batch, stream, transform, their async twins, events) runs the same flow. The wrapper is
    one run with a child for each rail, ``guardrail.input`` and ``guardrail.output``, which hold fields only, and one
    for the wrapped Runnable. With the output rail, or ``overlap``, that one is tagged ``guardrail:held`` and empty: the
    runs inside are detached from the caller's callbacks, since these would pass on what nobody has checked, and an
    error of the chain that may quote the model is told as a ``ChainError``, without its text (``failures``). The
    wrapper's own run records inputs and outputs as the wrapped Runnable's does; ``repr`` and serialisation hold names
    only.

    Does not: serialise (a guardian is a live resource), or look at images.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    runnable: Runnable[Input, Output] = Field(exclude=True)
    guardian: Annotated[GuardianProtocol, SkipValidation] = Field(exclude=True)
    policy: Policy = Field(default_factory=Policy)
    input_key: Annotated[InputKey | None, SkipValidation] = Field(default=None, exclude=True)
    output_type: Any = Field(default=None, exclude=True)
    on_block: Annotated[OnBlock | None, SkipValidation] = Field(default=None, exclude=True)
    on_uncheckable: OnFailure = "block"
    context_turns: int = 6

    rails: tuple[GuardRail, ...] = ("input",)
    window: WindowSetting = "sentence"
    release: Release = "checked"
    overlap: bool = False
    output_text: Annotated[OutputText | None, SkipValidation] = Field(default=None, exclude=True)
    on_escalate: Annotated[OnEscalate | None, SkipValidation] = Field(default=None, exclude=True)

    _calls: Calls = PrivateAttr()

    def __init__(
        self,
        *,
        runnable: Runnable[Input, Output],
        guardian: GuardianProtocol,
        policy: Policy | None = None,
        rails: Sequence[GuardRail] = ("input",),
        input_key: InputKey | None = None,
        output_type: object = None,
        output_text: OutputText | None = None,
        window: WindowSetting = "sentence",
        release: Release = "checked",
        overlap: bool = False,
        on_block: OnBlock | Callable[[Verdict | None], Any] | None = None,
        on_uncheckable: OnFailure = "block",
        on_escalate: OnEscalate | None = None,
        context_turns: int = 6,
        name: str | None = None,
    ) -> None:
        settings = Settings(
            guardian=guardian,
            policy=policy,
            rails=rails,
            input_key=input_key,
            output_type=output_type,
            output_text=output_text,
            window=window,
            release=release,
            overlap=overlap,
            on_block=VerdictOnly.wrap(on_block),
            on_uncheckable=on_uncheckable,
            on_escalate=on_escalate,
            context_turns=context_turns,
        )
        calls = build_calls(runnable, settings)
        given: dict[str, Any] = {field.name: getattr(settings, field.name) for field in fields(settings)}
        given |= {"policy": policy or calls.input.policy, "rails": check_rails(rails)}
        super().__init__(runnable=runnable, name=name, **given)
        self._calls = calls

    @override
    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return another one with some settings changed. What they make is made anew: the rails go by them.

        Does not: copy the guardian and the runnable, with ``deep`` or without.

        Raises:
            ConfigError: a setting is wrong, or there is none of that name.
        """
        given = {name: getattr(self, name) for name in type(self).model_fields} | dict(update or {})
        if unknown := given.keys() - type(self).model_fields.keys():
            raise ConfigError(f"a GuardedRunnable has no {', '.join(sorted(unknown))}")
        return type(self)(**given)

    @override
    def get_name(self, suffix: str | None = None, *, name: str | None = None) -> str:
        return super().get_name(suffix, name=name or self.name or f"guard<{self.runnable.get_name()}>")

    @property
    @override
    def InputType(self) -> type[Input]:
        return self.runnable.InputType

    @property
    @override
    def OutputType(self) -> type[Output]:
        return self.runnable.OutputType

    @override
    def get_input_schema(self, config: RunnableConfig | None = None) -> TypeBaseModel:
        return self.runnable.get_input_schema(config)

    @override
    def get_output_schema(self, config: RunnableConfig | None = None) -> TypeBaseModel:
        return self.runnable.get_output_schema(config)

    @property
    @override
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        return self.runnable.config_specs

    @override
    def get_graph(self, config: RunnableConfig | None = None) -> Graph:
        return self.runnable.get_graph(config)

    @override
    def __repr_args__(self) -> list[tuple[str | None, object]]:
        # The traces of a parent quote this: names only, no prompts, keys or source of functions.
        guardian = getattr(self.guardian, "id", type(self.guardian).__name__)
        return [("runnable", self.runnable.get_name()), ("guardian", guardian), ("policy", self.policy.version)]

    @override
    def invoke(self, input: Input, config: RunnableConfig | None = None, **kwargs: Any) -> Output:
        return self._call_with_config(self._invoke, input, config, **kwargs)

    def _invoke(
        self, input_: Input, run_manager: CallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any
    ) -> Output:
        return cast("Output", self._calls.invoke(input_, run_manager, config, **kwargs))

    @override
    async def ainvoke(self, input: Input, config: RunnableConfig | None = None, **kwargs: Any) -> Output:
        return await self._acall_with_config(self._ainvoke, input, config, **kwargs)

    async def _ainvoke(
        self, input_: Input, run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any
    ) -> Output:
        return cast("Output", await self._calls.ainvoke(input_, run_manager, config, **kwargs))

    @override
    def batch(
        self,
        inputs: list[Input],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Output]:
        outputs = self._batch_with_config(
            self._batch, inputs, config, return_exceptions=return_exceptions, keep_errors=return_exceptions, **kwargs
        )
        return _without_interrupts(outputs)

    def _batch(
        self,
        inputs: list[Input],
        run_manager: list[CallbackManagerForChainRun],
        config: list[RunnableConfig],
        **kwargs: Any,
    ) -> list[Output | Exception]:
        return cast("list[Output | Exception]", self._calls.batch(inputs, run_manager, config, **kwargs))

    @override
    async def abatch(
        self,
        inputs: list[Input],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Output]:
        outputs = await self._abatch_with_config(
            self._abatch, inputs, config, return_exceptions=return_exceptions, keep_errors=return_exceptions, **kwargs
        )
        return _without_interrupts(outputs)

    async def _abatch(
        self,
        inputs: list[Input],
        run_manager: list[AsyncCallbackManagerForChainRun],
        config: list[RunnableConfig],
        **kwargs: Any,
    ) -> list[Output | Exception]:
        return cast("list[Output | Exception]", await self._calls.abatch(inputs, run_manager, config, **kwargs))

    @override
    def stream(self, input: Input, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Output]:
        yield from self.transform(iter([input]), config, **kwargs)

    @override
    def transform(
        self, input: Iterator[Input], config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[Output]:
        yield from self._transform_stream_with_config(input, self._transform, config, **kwargs)

    def _transform(
        self,
        inputs: Iterator[Input],
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Iterator[Output]:
        parts = list(inputs)
        if parts:
            yield from cast("Iterator[Output]", self._calls.stream(joined(parts), run_manager, config, **kwargs))

    @override
    async def astream(self, input: Input, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Output]:
        async def once() -> AsyncIterator[Input]:
            yield input

        async with closing(self.atransform(once(), config, **kwargs)) as chunks:
            async for chunk in chunks:
                yield chunk

    @override
    async def atransform(
        self, input: AsyncIterator[Input], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Output]:
        async with closing(self._atransform_stream_with_config(input, self._atransform, config, **kwargs)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _atransform(
        self,
        inputs: AsyncIterator[Input],
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> AsyncIterator[Output]:
        parts = [part async for part in inputs]
        if not parts:
            return
        async with closing(self._calls.astream(joined(parts), run_manager, config, **kwargs)) as chunks:
            async for chunk in chunks:
                yield cast("Output", chunk)


def _without_interrupts(outputs: list[Output]) -> list[Output]:
    """Raise what LangChain's batch helpers file as a result under ``return_exceptions``: cancellation, Ctrl-C."""
    for output in outputs:
        if isinstance(output, BaseException) and not isinstance(output, Exception):
            raise output
    return outputs
