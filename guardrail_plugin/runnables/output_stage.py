"""The output rail as a wrapper uses it: judge whole answers, hold streams back, make what a caller gets instead."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.messages import BaseMessage

from guardrail_plugin.core.errors import ConfigError, InputError
from guardrail_plugin.flow import (
    Allowed,
    Edited,
    Ending,
    Failed,
    HoldBack,
    Outcome,
    Release,
    Rules,
    Steps,
    Window,
    ahold,
    describe,
    hold,
    output_rail,
)
from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.runnables.answers import (
    Asked,
    ChunkReader,
    OutputText,
    ReadCalls,
    WholeReader,
    every_call,
    read_answer,
)
from guardrail_plugin.runnables.output import OutputKind, reply
from guardrail_plugin.runnables.rail_runs import AsyncRailRuns, RailRuns, TracedRail, log_unjudged
from guardrail_plugin.runnables.stage import OnBlock
from guardrail_plugin.runnables.streams import closing

OnEnd: TypeAlias = Callable[[Outcome, str | None], None]
"""Told how a stream ended, and its message id, before what stands in for the rest is yielded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputStage:
    """An output rail with its settings. Immutable and shared by all calls of a wrapper.

    Attributes:
        calls: what of a message's orders is judged with the answer.
    """

    guardian: GuardianProtocol
    rules: Rules
    kind: OutputKind | None
    on_block: OnBlock | None
    output_text: OutputText | None
    window: Window
    release: Release
    calls: ReadCalls = every_call

    def judge(
        self,
        outputs: Sequence[object],
        asked: Sequence[Asked],
        parents: Sequence[CallbackManagerForChainRun],
        *,
        max_concurrency: int | None = None,
    ) -> list[Outcome]:
        """Decide about whole answers in one guardian batch, each inside a child run of its parent."""
        return self._traced.run(self._flows(outputs, asked), parents, max_concurrency=max_concurrency)

    async def ajudge(
        self,
        outputs: Sequence[object],
        asked: Sequence[Asked],
        parents: Sequence[AsyncCallbackManagerForChainRun],
        *,
        max_concurrency: int | None = None,
    ) -> list[Outcome]:
        """Like ``judge``. Cancellation: passes to the guardian; the rail's runs end as failed."""
        return await self._traced.arun(self._flows(outputs, asked), parents, max_concurrency=max_concurrency)

    def passed(self, output: object, outcome: Outcome) -> object:
        """Return the answer that a caller gets: the chain's own object, or what stands in for it.

        Raises:
            GuardrailError: the outcome is ``Failed``; also whatever a caller's ``on_block`` raises.
        """
        if isinstance(outcome, Allowed):
            return output
        return self._instead(outcome, message_id=output.id if isinstance(output, BaseMessage) else None)

    def stream(
        self,
        source: Iterator[object],
        asked: Asked,
        parent: CallbackManagerForChainRun,
        *,
        on_end: OnEnd | None = None,
    ) -> Iterator[object]:
        """Yield the chunks that may leave; after a block, what stands in for the rest. Closes the source.

        With ``output_text`` the source yields one value, the whole answer.
        """
        runs = RailRuns([parent], rail="output", policy_version=self.rules.policy.version)
        reader = self._reader(asked)
        held = hold(
            self._machine(asked), source, reader=reader, guardian=self.guardian, timeout_s=self.rules.policy.timeout_s
        )
        try:
            for item in held:
                if isinstance(item, Ending):
                    runs.end([item.outcome], **_figures(item))
                    log_unjudged([item.outcome])
                    if on_end is not None:
                        on_end(item.outcome, reader.message_id)
                    yield from self._rest(item, reader)
                else:
                    yield item
        except BaseException as error:
            runs.fail(error)
            raise
        finally:
            held.close()  # type: ignore[attr-defined]

    async def astream(
        self,
        source: AsyncIterator[object],
        asked: Asked,
        parent: AsyncCallbackManagerForChainRun,
        *,
        on_end: OnEnd | None = None,
    ) -> AsyncIterator[object]:
        """Like ``stream``. Cancellation: the source's task and the check that is out are cancelled and awaited."""
        runs = await AsyncRailRuns.start([parent], rail="output", policy_version=self.rules.policy.version)
        reader = self._reader(asked)
        held = ahold(
            self._machine(asked), source, reader=reader, guardian=self.guardian, timeout_s=self.rules.policy.timeout_s
        )
        try:
            async with closing(held) as items:
                async for item in items:
                    if isinstance(item, Ending):
                        await runs.end([item.outcome], **_figures(item))
                        log_unjudged([item.outcome])
                        if on_end is not None:
                            on_end(item.outcome, reader.message_id)
                        for chunk in self._rest(item, reader):
                            yield chunk
                    else:
                        yield item
        except BaseException as error:
            await runs.fail(error)
            raise

    def _rest(self, ending: Ending, reader: ChunkReader | WholeReader) -> Iterator[object]:
        if not isinstance(ending.outcome, Allowed):
            yield self._instead(
                ending.outcome,
                message_id=reader.message_id,
                chunk=True,
                blocks=reader.blocks,
                released=ending.released_characters,
            )

    def _instead(
        self,
        outcome: Outcome,
        *,
        message_id: str | None = None,
        chunk: bool = False,
        blocks: bool = False,
        released: int = 0,
    ) -> object:
        if isinstance(outcome, Failed):
            raise outcome.error
        if isinstance(outcome, Allowed):
            raise AssertionError("an allowed answer has nothing in its place")
        text = outcome.text if isinstance(outcome, Edited) else outcome.response
        if callable(self.on_block):
            return self.on_block(outcome.verdict, text)
        if self.kind is None:
            raise ConfigError("an edited answer has no type to take; pass output_type or on_block=function")
        fields = describe(outcome, policy_version=self.rules.policy.version)
        if chunk:
            # What a client has shown before and should take back.
            fields["released_characters"] = released
        return reply(
            f"\n\n{text}" if released else text,
            self.kind,
            fields=fields,
            chunk=chunk,
            message_id=message_id,
            blocks=blocks,
        )

    @property
    def _traced(self) -> TracedRail:
        return TracedRail(self.guardian, self.rules.policy, "output")

    def _machine(self, asked: Asked) -> HoldBack[object]:
        return HoldBack(
            window=self.window, rules=self.rules, query=asked.query, context=asked.context, release=self.release
        )

    def _reader(self, asked: Asked) -> ChunkReader | WholeReader:
        return (
            ChunkReader(asked, calls=self.calls) if self.output_text is None else WholeReader(asked, self.output_text)
        )

    def _flows(self, outputs: Sequence[object], asked: Sequence[Asked]) -> list[Steps[Outcome]]:
        return [self._flow(output, what) for output, what in zip(outputs, asked, strict=True)]

    def _flow(self, output: object, asked: Asked) -> Steps[Outcome]:
        try:
            answer = read_answer(output, asked, self.output_text, calls=self.calls)
        except InputError as error:
            return output_rail(error, asked=None, rules=self.rules)
        subject = answer.subject
        what = asked.check(subject[0].text) if isinstance(subject, tuple) and subject else None
        return output_rail(subject, asked=what, beside=answer.beside, rules=self.rules)


def _figures(ending: Ending) -> dict[str, object]:
    return {"released_characters": ending.released_characters, "checks": ending.windows}
