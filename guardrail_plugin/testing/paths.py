"""Every way to call a Runnable, brought to one form, so that a wrapper's paths can be compared with each other.

``SYNC_PATHS`` and ``ASYNC_PATHS`` map a name to a function from a Runnable and an input to a ``Reply``. Neither
needs pytest: parametrise over them in any runner.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig
from typing_extensions import override

from guardrail_plugin.core.errors import GuardrailError

AnyRunnable: TypeAlias = Runnable[Any, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, without what may differ between paths: chunks count as what they add up to.

    Attributes:
        kind: the output's class (``"AIMessage"`` also for its chunks), or the exception's.
        text: what it says; for messages their text, for exceptions their message.
        guardrail: a message's ``response_metadata["guardrail"]`` without timings.
    """

    kind: str
    text: str
    guardrail: tuple[tuple[str, object], ...] = ()

    @classmethod
    def of(cls, value: object) -> Reply:
        """Bring an output or an exception to this form."""
        if isinstance(value, BaseMessage):
            fields: dict[str, object] = value.response_metadata.get("guardrail", {})
            stable = {
                key: repr(field) for key, field in fields.items() if key not in ("seconds", "released_characters")
            }
            return cls(type(value).__name__.removesuffix("Chunk"), value.text, tuple(sorted(stable.items())))
        return cls(type(value).__name__, str(value))


class CountingChain(Runnable[Any, Any]):
    """A chain that answers ``"an answer"`` as text or as a message, in three chunks where it streams.

    Attributes:
        calls: how often it ran, on whatever path. A blocked call must leave it as it was.
        inputs: what it was given.
    """

    def __init__(self, output_type: type[str] | type[AIMessage] = str) -> None:
        self._output_type = output_type
        self.inputs: list[object] = []

    @property
    def calls(self) -> int:
        """Number of runs that were started."""
        return len(self.inputs)

    @property
    @override
    def OutputType(self) -> Any:
        return self._output_type

    @override
    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return self._call_with_config(self._run, input, config)

    def _run(self, value: object) -> object:
        self.inputs.append(value)
        return AIMessage("an answer") if self._output_type is AIMessage else "an answer"

    @override
    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        async def run(value: object) -> object:
            return self._run(value)

        return await self._acall_with_config(run, input, config)

    @override
    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        self.inputs.append(input)
        yield from self._chunks()

    @override
    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        self.inputs.append(input)
        for chunk in self._chunks():
            yield chunk

    def _chunks(self) -> Sequence[object]:
        texts = ("an ", "ans", "wer")
        return [AIMessageChunk(content=text) for text in texts] if self._output_type is AIMessage else texts


def _added(chunks: Sequence[Any]) -> object:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    return whole


def _same(values: Sequence[object]) -> object:
    first, *others = values
    if any(Reply.of(other) != Reply.of(first) for other in others):
        raise AssertionError("equal inputs of one batch got different answers")
    return first


def _configs(count: int) -> list[RunnableConfig]:
    return [RunnableConfig(tags=[f"item:{index}"], metadata={"item": index}) for index in range(count)]


async def _aiter(values: Sequence[object]) -> AsyncIterator[object]:
    for value in values:
        yield value


async def _alist(values: AsyncIterator[object]) -> list[object]:
    return [value async for value in values]


async def _root_end(runnable: AnyRunnable, value: object) -> object:
    ends = [
        event["data"]["output"]
        async for event in runnable.astream_events(value, version="v2")
        if event["event"].endswith("_end") and not event["parent_ids"]
    ]
    [end] = ends
    return end


async def _abatch_as_completed(runnable: AnyRunnable, value: object) -> object:
    done = [item async for item in runnable.abatch_as_completed([value] * 3, return_exceptions=True)]
    return _same([output for _, output in sorted(done, key=lambda item: item[0])])


_SYNC: dict[str, Callable[[AnyRunnable, object], object]] = {
    "invoke": lambda runnable, value: runnable.invoke(value),
    "batch": lambda runnable, value: _same(runnable.batch([value] * 3)),
    "batch, list of configs": lambda runnable, value: _same(runnable.batch([value] * 3, _configs(3))),
    "batch, return_exceptions": lambda runnable, value: _same(runnable.batch([value] * 3, return_exceptions=True)),
    "batch_as_completed": lambda runnable, value: _same(
        [output for _, output in runnable.batch_as_completed([value] * 3, return_exceptions=True)]
    ),
    "stream": lambda runnable, value: _added(list(runnable.stream(value))),
    "transform": lambda runnable, value: _added(list(runnable.transform(iter([value])))),
}

_ASYNC: dict[str, Callable[[AnyRunnable, object], Awaitable[object]]] = {
    "ainvoke": lambda runnable, value: runnable.ainvoke(value),
    "abatch": lambda runnable, value: _asame(runnable.abatch([value] * 3)),
    "abatch, list of configs": lambda runnable, value: _asame(runnable.abatch([value] * 3, _configs(3))),
    "abatch, return_exceptions": lambda runnable, value: _asame(runnable.abatch([value] * 3, return_exceptions=True)),
    "abatch_as_completed": _abatch_as_completed,
    "astream": lambda runnable, value: _aadded(runnable.astream(value)),
    "atransform": lambda runnable, value: _aadded(runnable.atransform(_aiter([value]))),
    "astream_events": _root_end,
}


async def _asame(values: Awaitable[list[Any]]) -> object:
    return _same(await values)


async def _aadded(chunks: AsyncIterator[Any]) -> object:
    return _added(await _alist(chunks))


def _caught(path: Callable[[AnyRunnable, object], object]) -> Callable[[AnyRunnable, object], Reply]:
    def run(runnable: AnyRunnable, value: object) -> Reply:
        try:
            return Reply.of(path(runnable, value))
        except GuardrailError as error:
            return Reply.of(error)

    return run


def _acaught(
    path: Callable[[AnyRunnable, object], Awaitable[object]],
) -> Callable[[AnyRunnable, object], Awaitable[Reply]]:
    async def run(runnable: AnyRunnable, value: object) -> Reply:
        try:
            return Reply.of(await path(runnable, value))
        except GuardrailError as error:
            return Reply.of(error)

    return run


SYNC_PATHS = {name: _caught(path) for name, path in _SYNC.items()}
"""Paths of sync code. Errors of this library come back as replies; others are raised."""

ASYNC_PATHS = {name: _acaught(path) for name, path in _ASYNC.items()}
"""Paths of async code. Errors of this library come back as replies; others are raised."""
