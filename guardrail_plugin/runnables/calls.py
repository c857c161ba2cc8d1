"""What a guarded call does, on each of the six paths: judge the input, run the chain, judge the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableConfig

from guardrail_plugin.flow import Allowed, Edited
from guardrail_plugin.runnables import detached
from guardrail_plugin.runnables.ahead import Ahead, AsyncAhead, beside
from guardrail_plugin.runnables.batches import BatchWork
from guardrail_plugin.runnables.gate import Gate
from guardrail_plugin.runnables.model_chunks import as_chunk
from guardrail_plugin.runnables.output_stage import OutputStage
from guardrail_plugin.runnables.rewrite import unshared
from guardrail_plugin.runnables.stage import InputStage, Reading
from guardrail_plugin.runnables.streams import aonce, closing, once


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """The paths of one wrapper. Immutable and shared by all its calls.

    Attributes:
        output: the output rail; ``None``: answers are not checked.
        overlap: start the chain beside the guardian. Batches are judged first all the same.
    """

    runnable: Runnable[Any, Any]
    input: InputStage
    output: OutputStage | None
    overlap: bool

    def _gate(self) -> Gate:
        return Gate(wait_s=self.input.verdict_within_s)

    def invoke(self, value: Any, manager: CallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any) -> object:
        """Answer one input."""
        if self.overlap:
            return self._overlapped(value, manager, config, **kwargs)
        turn = self.input.read(value)
        [outcome] = self.input.judge([turn], [manager])
        if not isinstance(outcome, Allowed | Edited):
            return self.input.instead(outcome)
        value, turn = self.input.accepted(value, turn, outcome)
        if self.output is None:
            return self.runnable.invoke(value, config, **kwargs)
        return self._checked(turn, detached.invoke(self.runnable, value, config, manager, **kwargs), manager)

    def _overlapped(
        self, value: Any, manager: CallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any
    ) -> object:
        turn, kept, gate = self.input.read(value), unshared(value), self._gate()
        call = beside(lambda: detached.invoke(self.runnable, value, config, manager, **kwargs), gate)
        try:
            [outcome] = self.input.judge([turn], [manager])
            if isinstance(outcome, Allowed):
                gate.open()
                return self._checked(turn, call.result(), manager)
        finally:
            gate.shut()
            del call  # it keeps the chain's error, whose traceback holds this frame
        if not isinstance(outcome, Edited):
            return self.input.instead(outcome)
        edited, turn = self.input.accepted(kept, turn, outcome)
        return self._checked(turn, detached.invoke(self.runnable, edited, config, manager, **kwargs), manager)

    def _checked(self, turn: Reading, output: object, manager: CallbackManagerForChainRun) -> object:
        if self.output is None:
            return output
        [outcome] = self.output.judge([output], [self.input.asked(turn)], [manager])
        return self.output.passed(output, outcome)

    async def ainvoke(
        self, value: Any, manager: AsyncCallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any
    ) -> object:
        """Like ``invoke``. Cancellation: passes to the guardian and the chain; nothing is left running."""
        if self.overlap:
            return await self._aoverlapped(value, manager, config, **kwargs)
        turn = self.input.read(value)
        [outcome] = await self.input.ajudge([turn], [manager])
        if not isinstance(outcome, Allowed | Edited):
            return self.input.instead(outcome)
        value, turn = self.input.accepted(value, turn, outcome)
        if self.output is None:
            return await self.runnable.ainvoke(value, config, **kwargs)
        output = await detached.ainvoke(self.runnable, value, config, manager, **kwargs)
        return await self._achecked(turn, output, manager)

    async def _aoverlapped(
        self, value: Any, manager: AsyncCallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any
    ) -> object:
        turn, kept, gate = self.input.read(value), unshared(value), self._gate()

        async def speculate() -> object:
            gate.enter()
            return await detached.ainvoke(self.runnable, value, config, manager, **kwargs)

        call = asyncio.create_task(speculate())
        try:
            [outcome] = await self.input.ajudge([turn], [manager])
            if isinstance(outcome, Allowed):
                gate.open()
                output = await call
        finally:
            gate.shut()
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        if isinstance(outcome, Edited):
            edited, turn = self.input.accepted(kept, turn, outcome)
            output = await detached.ainvoke(self.runnable, edited, config, manager, **kwargs)
        elif not isinstance(outcome, Allowed):
            return self.input.instead(outcome)
        return await self._achecked(turn, output, manager)

    async def _achecked(self, turn: Reading, output: object, manager: AsyncCallbackManagerForChainRun) -> object:
        if self.output is None:
            return output
        [outcome] = await self.output.ajudge([output], [self.input.asked(turn)], [manager])
        return self.output.passed(output, outcome)

    def batch(
        self,
        values: list[Any],
        managers: list[CallbackManagerForChainRun],
        configs: list[RunnableConfig],
        *,
        keep_errors: bool = False,
        **kwargs: Any,
    ) -> list[object]:
        """Answer many inputs: all inputs are one guardian batch, and so are all answers.

        Where ``max_concurrency`` is set, so many of them are, each batch within the guardian's full timeout.
        """
        most, rail = configs[0].get("max_concurrency"), self.output
        turns = [self.input.read(value) for value in values]
        outcomes = self.input.judge(turns, managers, max_concurrency=most)
        work = BatchWork(self.input, values, turns, outcomes, keep_errors=keep_errors)
        chosen, its_managers, its_configs = work.pick(managers, configs)
        if chosen and rail is None:
            work.take(self.runnable.batch(chosen, its_configs, return_exceptions=keep_errors, **kwargs))
        elif chosen and rail is not None:
            work.take(
                detached.batch(
                    self.runnable, chosen, its_configs, its_managers, return_exceptions=keep_errors, **kwargs
                )
            )
            outputs, asked = work.answers()
            judged = rail.judge(outputs, asked, work.of_answers(managers), max_concurrency=most)
            work.settle(rail, judged)
        return work.results()

    async def abatch(
        self,
        values: list[Any],
        managers: list[AsyncCallbackManagerForChainRun],
        configs: list[RunnableConfig],
        *,
        keep_errors: bool = False,
        **kwargs: Any,
    ) -> list[object]:
        """Like ``batch``. Cancellation: passes to the guardian and the chain."""
        most, rail = configs[0].get("max_concurrency"), self.output
        turns = [self.input.read(value) for value in values]
        outcomes = await self.input.ajudge(turns, managers, max_concurrency=most)
        work = BatchWork(self.input, values, turns, outcomes, keep_errors=keep_errors)
        chosen, its_managers, its_configs = work.pick(managers, configs)
        if chosen and rail is None:
            work.take(await self.runnable.abatch(chosen, its_configs, return_exceptions=keep_errors, **kwargs))
        elif chosen and rail is not None:
            work.take(
                await detached.abatch(
                    self.runnable, chosen, its_configs, its_managers, return_exceptions=keep_errors, **kwargs
                )
            )
            outputs, asked = work.answers()
            judged = await rail.ajudge(outputs, asked, work.of_answers(managers), max_concurrency=most)
            work.settle(rail, judged)
        return work.results()

    def stream(
        self, value: Any, manager: CallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any
    ) -> Iterator[object]:
        """Answer one input in chunks. A reader that leaves closes all that runs."""
        turn, kept, gate = self.input.read(value), value, self._gate()
        ahead: Ahead[object] | None = None
        if self.overlap:
            kept = unshared(value)
            ahead = Ahead(lambda: self._chunks(value, manager, config, **kwargs), gate)
        try:
            [outcome] = self.input.judge([turn], [manager])
            if not isinstance(outcome, Allowed | Edited):
                gate.shut()
                yield self.input.instead(outcome, chunk=True)
                return
            goes_on, turn = self.input.accepted(kept, turn, outcome)
            if ahead is not None and isinstance(outcome, Allowed):
                gate.open()
                source: Iterator[object] = ahead
            elif self.output is None and not self.overlap:
                source = self.runnable.stream(goes_on, config, **kwargs)
            else:
                source = self._chunks(goes_on, manager, config, **kwargs)
            if self.output is None:
                yield from source
            else:
                yield from self.output.stream(source, self.input.asked(turn), manager)
        finally:
            gate.shut()
            if ahead is not None:
                ahead.close()

    async def astream(
        self, value: Any, manager: AsyncCallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any
    ) -> AsyncIterator[object]:
        """Like ``stream``. Cancellation: passes to the guardian and the chain; nothing is left running."""
        turn, kept, gate = self.input.read(value), value, self._gate()
        ahead: AsyncAhead[object] | None = None
        if self.overlap:
            kept = unshared(value)
            ahead = AsyncAhead(self._achunks(value, manager, config, **kwargs), gate)
        try:
            [outcome] = await self.input.ajudge([turn], [manager])
            if not isinstance(outcome, Allowed | Edited):
                gate.shut()
                if ahead is not None:
                    await ahead.aclose()
                yield self.input.instead(outcome, chunk=True)
                return
            goes_on, turn = self.input.accepted(kept, turn, outcome)
            if ahead is not None and isinstance(outcome, Allowed):
                gate.open()
                source: AsyncIterator[object] = ahead
            elif self.output is None and not self.overlap:
                source = self.runnable.astream(goes_on, config, **kwargs)
            else:
                if ahead is not None:
                    await ahead.aclose()
                source = self._achunks(goes_on, manager, config, **kwargs)
                if self.output is None:
                    gate.shut()
                    gate = self._gate()
                    gate.open()
                    # Read in a task of its own, whose config it sets.
                    source = ahead = AsyncAhead(source, gate)
            if self.output is not None:
                source = self.output.astream(source, self.input.asked(turn), manager)
            async with closing(source) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            gate.shut()
            if ahead is not None:
                await ahead.aclose()

    @property
    def _in_one(self) -> bool:
        """Whether streams are one value: how chunks of what only ``output_text`` can read add up, nobody knows.

        Graphs stream what changes, parsers all that they have so far.
        """
        return self.output is not None and self.output.output_text is not None

    def _chunks(
        self, value: Any, manager: CallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any
    ) -> Iterator[object]:
        """Run the chain unheard, as a stream."""
        if self._in_one:
            return once(lambda: _as_part(detached.invoke(self.runnable, value, config, manager, **kwargs)))
        return detached.stream(self.runnable, value, config, manager, **kwargs)

    def _achunks(
        self, value: Any, manager: AsyncCallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any
    ) -> AsyncIterator[object]:
        """Like ``_chunks``. Cancellation: passes to the chain."""

        async def whole() -> object:
            return _as_part(await detached.ainvoke(self.runnable, value, config, manager, **kwargs))

        return aonce(whole) if self._in_one else detached.astream(self.runnable, value, config, manager, **kwargs)


def _as_part(output: object) -> object:
    """Return an output as streams have it: messages are chunks there, and parsers read calls from nothing else."""
    return as_chunk(output) if isinstance(output, AIMessage) else output
