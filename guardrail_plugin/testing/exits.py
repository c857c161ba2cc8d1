"""Every way by which a Runnable's words can leave it, and what left."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import Runnable
from typing_extensions import override

AnyRunnable = Runnable[Any, Any]
Left = list[object]


class Listener(BaseCallbackHandler):
    """Keeps every output and token that callbacks are told of, as a tracer or a LangGraph stream would.

    Inputs are not kept: what goes in is not what got out.
    """

    run_inline = True

    def __init__(self) -> None:
        self.heard: Left = []

    @override
    def on_llm_new_token(self, token: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self.heard += [token, kwargs.get("chunk")]

    @override
    def on_llm_end(self, response: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self.heard.append(response)

    @override
    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self.heard.append(outputs)

    @override
    def on_tool_start(self, serialized: Any, input_str: str, *, run_id: UUID, **kwargs: Any) -> None:
        self.heard.append(kwargs.get("inputs"))

    @override
    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self.heard.append(output)

    @override
    def on_custom_event(self, name: str, data: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self.heard.append(data)


async def _all(items: AsyncIterator[Any]) -> Left:
    return [item async for item in items]


async def _invoke(runnable: AnyRunnable, value: object) -> Left:
    listener = Listener()
    return [runnable.invoke(value, {"callbacks": [listener]}), *listener.heard]


async def _batch(runnable: AnyRunnable, value: object) -> Left:
    listener = Listener()
    return [runnable.batch([value, value], {"callbacks": [listener]}), *listener.heard]


async def _stream(runnable: AnyRunnable, value: object) -> Left:
    listener = Listener()
    return [*runnable.stream(value, {"callbacks": [listener]}), *listener.heard]


async def _ainvoke(runnable: AnyRunnable, value: object) -> Left:
    listener = Listener()
    return [await runnable.ainvoke(value, {"callbacks": [listener]}), *listener.heard]


async def _abatch(runnable: AnyRunnable, value: object) -> Left:
    listener = Listener()
    return [await runnable.abatch([value, value], {"callbacks": [listener]}), *listener.heard]


async def _astream(runnable: AnyRunnable, value: object) -> Left:
    listener = Listener()
    return [*await _all(runnable.astream(value, {"callbacks": [listener]})), *listener.heard]


async def _events_v1(runnable: AnyRunnable, value: object) -> Left:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return await _all(runnable.astream_events(value, version="v1"))


async def _log(runnable: AnyRunnable, value: object) -> Left:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return await _all(runnable.astream_log(value))


EXITS: dict[str, Callable[[AnyRunnable, object], Awaitable[Left]]] = {
    "invoke": _invoke,
    "batch": _batch,
    "stream": _stream,
    "ainvoke": _ainvoke,
    "abatch": _abatch,
    "astream": _astream,
    "astream_events v1": _events_v1,
    "astream_events v2": lambda runnable, value: _all(runnable.astream_events(value, version="v2")),
    "astream_log": _log,
}
"""A name, and a function that runs a Runnable once and returns all that left it, callbacks included."""


STREAM_MODES = ("messages", "updates", "values", "custom")

AgentExit: TypeAlias = Callable[[Any, Any, Any], Awaitable[Left]]


def _streamed(mode: str) -> AgentExit:
    async def run(agent: Any, value: object, config: Any) -> Left:
        return list(agent.stream(value, config, stream_mode=mode))

    return run


def _astreamed(mode: str) -> AgentExit:
    return lambda agent, value, config: _all(agent.astream(value, config, stream_mode=mode))


def _events(version: str) -> AgentExit:
    async def run(agent: Any, value: object, config: Any) -> Left:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return await _all(agent.astream_events(value, config, version=version))

    return run


async def _events_v3(agent: Any, value: object, config: Any) -> Left:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            run = await agent.astream_events(value, config, version="v3")
        except (NotImplementedError, TypeError):
            return []  # an older LangGraph, which has no such exit
        return await _all(run)


async def _sync_events_v3(agent: Any, value: object, config: Any) -> Left:
    if not hasattr(agent, "stream_events"):
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(agent.stream_events(value, config, version="v3"))


AGENT_EXITS: dict[str, AgentExit] = {
    **{f"stream, mode {mode}": _streamed(mode) for mode in STREAM_MODES},
    **{f"astream, mode {mode}": _astreamed(mode) for mode in STREAM_MODES},
    **{f"astream_events {version}": _events(version) for version in ("v1", "v2")},
    "astream_events v3": _events_v3,
    "stream_events v3": _sync_events_v3,
}
"""A name, and a function that runs a compiled graph once, with a config, and returns all that left it meanwhile."""
