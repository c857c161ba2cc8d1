"""``GuardedRunnable``: an input rail and a responder in front of any Runnable."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.runnables import Runnable, RunnableConfig, RunnableSerializable
from langchain_core.runnables.graph import Graph
from langchain_core.runnables.utils import ConfigurableFieldSpec, Input, Output
from langchain_core.utils.pydantic import TypeBaseModel
from pydantic import ConfigDict, Field, PrivateAttr, SkipValidation
from typing_extensions import override

from guardrail_plugin.core.policy import OnFailure, Policy
from guardrail_plugin.flow import Allowed
from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.runnables.construction import build_stage
from guardrail_plugin.runnables.stage import InputStage, OnBlock
from guardrail_plugin.runnables.streams import closing, joined
from guardrail_plugin.runnables.views import InputKey


class GuardedRunnable(RunnableSerializable[Input, Output]):
    """A Runnable behind an input rail. Made by ``guard()``, which documents the settings. Immutable.

    Every path (invoke, batch, stream, transform, their async twins, events) runs the same flow. The wrapper is
    one run with two children: ``guardrail.input``, which holds fields only, and the wrapped Runnable. Its own run
    records inputs and outputs as the wrapped Runnable's does; ``repr`` and serialisation hold names only.

    Does not: serialise (a guardian is a live resource), check outputs, or look at images.
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

    _stage: InputStage = PrivateAttr()

    def __init__(
        self,
        *,
        runnable: Runnable[Input, Output],
        guardian: GuardianProtocol,
        policy: Policy | None = None,
        input_key: InputKey | None = None,
        output_type: object = None,
        on_block: OnBlock | None = None,
        on_uncheckable: OnFailure = "block",
        context_turns: int = 6,
        name: str | None = None,
    ) -> None:
        stage = build_stage(
            runnable,
            guardian=guardian,
            policy=policy,
            input_key=input_key,
            output_type=output_type,
            on_block=on_block,
            on_uncheckable=on_uncheckable,
            context_turns=context_turns,
        )
        fields: dict[str, Any] = {
            "runnable": runnable,
            "guardian": guardian,
            "policy": policy or stage.policy,
            "input_key": input_key,
            "output_type": output_type,
            "on_block": on_block,
            "on_uncheckable": on_uncheckable,
            "context_turns": context_turns,
            "name": name,
        }
        super().__init__(**fields)
        self._stage = stage

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
        [outcome] = self._stage.judge([input_], [run_manager])
        if isinstance(outcome, Allowed):
            return self.runnable.invoke(input_, config, **kwargs)
        return cast("Output", self._stage.instead(outcome))

    @override
    async def ainvoke(self, input: Input, config: RunnableConfig | None = None, **kwargs: Any) -> Output:
        return await self._acall_with_config(self._ainvoke, input, config, **kwargs)

    async def _ainvoke(
        self, input_: Input, run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any
    ) -> Output:
        [outcome] = await self._stage.ajudge([input_], [run_manager])
        if isinstance(outcome, Allowed):
            return await self.runnable.ainvoke(input_, config, **kwargs)
        return cast("Output", self._stage.instead(outcome))

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
        *,
        keep_errors: bool = False,
        **kwargs: Any,
    ) -> list[Output | Exception]:
        outcomes = self._stage.judge(inputs, run_manager, max_concurrency=config[0].get("max_concurrency"))
        results = self._stage.settled(outcomes, keep_errors=keep_errors)
        allowed = [index for index in range(len(inputs)) if index not in results]
        if allowed:
            outputs = self.runnable.batch(
                [inputs[i] for i in allowed], [config[i] for i in allowed], return_exceptions=keep_errors, **kwargs
            )
            results.update(zip(allowed, outputs, strict=True))
        return cast("list[Output | Exception]", [results[index] for index in range(len(inputs))])

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
        *,
        keep_errors: bool = False,
        **kwargs: Any,
    ) -> list[Output | Exception]:
        outcomes = await self._stage.ajudge(inputs, run_manager, max_concurrency=config[0].get("max_concurrency"))
        results = self._stage.settled(outcomes, keep_errors=keep_errors)
        allowed = [index for index in range(len(inputs)) if index not in results]
        if allowed:
            outputs = await self.runnable.abatch(
                [inputs[i] for i in allowed], [config[i] for i in allowed], return_exceptions=keep_errors, **kwargs
            )
            results.update(zip(allowed, outputs, strict=True))
        return cast("list[Output | Exception]", [results[index] for index in range(len(inputs))])

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
        if not parts:
            return
        whole = joined(parts)
        [outcome] = self._stage.judge([whole], [run_manager])
        if isinstance(outcome, Allowed):
            yield from self.runnable.stream(whole, config, **kwargs)
        else:
            yield cast("Output", self._stage.instead(outcome, chunk=True))

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
        whole = joined(parts)
        [outcome] = await self._stage.ajudge([whole], [run_manager])
        if isinstance(outcome, Allowed):
            async with closing(self.runnable.astream(whole, config, **kwargs)) as chunks:
                async for chunk in chunks:
                    yield chunk
        else:
            yield cast("Output", self._stage.instead(outcome, chunk=True))


def _without_interrupts(outputs: list[Output]) -> list[Output]:
    """Raise what LangChain's batch helpers file as a result under ``return_exceptions``: cancellation, Ctrl-C."""
    for output in outputs:
        if isinstance(output, BaseException) and not isinstance(output, Exception):
            raise output
    return outputs
