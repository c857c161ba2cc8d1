"""Run a chain so that nothing it says can be overheard: no callback of the caller sees its runs.

``astream_events``, ``astream_log`` and LangGraph's ``stream_mode="messages"`` listen through callbacks, and would
pass on raw tokens. In their place the caller's traces get one child run with the chain's name and timing, without
inputs and outputs. What the chain raises is withheld where it may quote the model: see ``failures``. Handlers that
belong to the chain itself (``chain.with_config(callbacks=[...])``, a model's own ``callbacks``) and tracers that the
environment turns on (LangSmith's) still see all: the developer put them there.

Does not: hold back what code inside the chain writes elsewhere, such as LangGraph's custom stream writer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import patch_config, set_config_context, var_child_runnable_config
from langchain_core.runnables.utils import coro_with_context

from guardrail_plugin.runnables.failures import Heard, listeners
from guardrail_plugin.runnables.streams import closing

HELD_TAG = "guardrail:held"
"""Tag of the run that stands for a chain whose own runs nobody sees."""

_OUTWARD = frozenset({"__pregel_stream", "__pregel_stream_messages_v2"})
"""Where LangGraph keeps the streams of an outer graph, to which a graph inside would write."""

AnyRunnable = Runnable[Any, Any]


def detached(config: RunnableConfig, *heard: Heard) -> RunnableConfig:
    """Return a config without the caller's listeners; tags, metadata and settings stay.

    Args:
        heard: who listens for whether a model speaks.
    """
    inner = patch_config(config)
    # A detached run around this one asks the same, and passes nothing on.
    inner["callbacks"] = [*listeners(inner.get("callbacks")), *heard]
    configurable = inner.get("configurable", {})
    if not _OUTWARD.isdisjoint(configurable):
        inner["configurable"] = {key: value for key, value in configurable.items() if key not in _OUTWARD}
    return inner


@contextmanager
def held_run(parent: CallbackManagerForChainRun, name: str) -> Iterator[None]:
    """Show that the chain ran, and for how long."""
    if not parent.inheritable_handlers:
        yield
        return
    run = parent.get_child(HELD_TAG).on_chain_start(None, {}, name=name)
    try:
        yield
    except BaseException as error:
        if isinstance(error, GeneratorExit):
            run.on_chain_end({})
        else:
            run.on_chain_error(error)
        raise
    run.on_chain_end({})


@asynccontextmanager
async def aheld_run(parent: AsyncCallbackManagerForChainRun, name: str) -> AsyncIterator[None]:
    """Like ``held_run``. Cancellation: ends the run as failed, and passes."""
    if not parent.inheritable_handlers:
        yield
        return
    run = await parent.get_child(HELD_TAG).on_chain_start(None, {}, name=name)
    try:
        yield
    except BaseException as error:
        if isinstance(error, GeneratorExit):
            await run.on_chain_end({})
        else:
            await run.on_chain_error(error)
        raise
    await run.on_chain_end({})


def invoke(
    runnable: AnyRunnable, value: object, config: RunnableConfig, parent: CallbackManagerForChainRun, **kwargs: Any
) -> object:
    """Invoke it unheard.

    Raises:
        ChainError: it raised what could quote the model.
    """
    heard = Heard(runnable)
    inner = detached(config, heard)
    with held_run(parent, runnable.get_name()), set_config_context(inner) as context:
        return heard.call(lambda: context.run(runnable.invoke, value, inner, **kwargs))


async def ainvoke(
    runnable: AnyRunnable, value: object, config: RunnableConfig, parent: AsyncCallbackManagerForChainRun, **kwargs: Any
) -> object:
    """Like ``invoke``. Cancellation: passes to the chain, which is awaited."""
    heard = Heard(runnable)
    inner = detached(config, heard)
    async with aheld_run(parent, runnable.get_name()):
        with set_config_context(inner) as context:
            return await heard.acall(lambda: coro_with_context(runnable.ainvoke(value, inner, **kwargs), context))


def stream(
    runnable: AnyRunnable, value: object, config: RunnableConfig, parent: CallbackManagerForChainRun, **kwargs: Any
) -> Iterator[object]:
    """Stream it unheard; raises as ``invoke``. Closing the stream closes the chain's."""
    heard = Heard(runnable)
    inner = detached(config, heard)
    end = object()
    with held_run(parent, runnable.get_name()), set_config_context(inner) as context:
        chunks = heard.call(lambda: context.run(runnable.stream, value, inner, **kwargs))
        try:
            while (chunk := heard.call(lambda: context.run(next, chunks, end))) is not end:
                yield chunk
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                heard.call(lambda: context.run(close))


async def astream(
    runnable: AnyRunnable, value: object, config: RunnableConfig, parent: AsyncCallbackManagerForChainRun, **kwargs: Any
) -> AsyncIterator[object]:
    """Like ``stream``. Read it in a task of its own: it sets that task's config."""
    heard = Heard(runnable)
    inner = detached(config, heard)
    async with aheld_run(parent, runnable.get_name()):
        var_child_runnable_config.set(inner)
        async with closing(heard.achunks(lambda: runnable.astream(value, inner, **kwargs))) as chunks:
            async for chunk in chunks:
                yield chunk


def batch(
    runnable: AnyRunnable,
    values: Sequence[object],
    configs: Sequence[RunnableConfig],
    parents: Sequence[CallbackManagerForChainRun],
    **kwargs: Any,
) -> list[object]:
    """Batch it unheard; raises as ``invoke``, and what is raised for one input is told so among the results."""
    heard, each = Heard(runnable), [Heard(runnable) for _ in configs]
    inner = [detached(config, heard, own) for config, own in zip(configs, each, strict=True)]
    with ExitStack() as stack:
        for parent in parents:
            stack.enter_context(held_run(parent, runnable.get_name()))
        context = stack.enter_context(set_config_context(inner[0]))
        outputs = heard.call(lambda: context.run(runnable.batch, list(values), inner, **kwargs))
    return _told(outputs, each)


async def abatch(
    runnable: AnyRunnable,
    values: Sequence[object],
    configs: Sequence[RunnableConfig],
    parents: Sequence[AsyncCallbackManagerForChainRun],
    **kwargs: Any,
) -> list[object]:
    """Like ``batch``. Cancellation: passes to the chain's tasks, which are awaited."""
    heard, each = Heard(runnable), [Heard(runnable) for _ in configs]
    inner = [detached(config, heard, own) for config, own in zip(configs, each, strict=True)]
    async with AsyncExitStack() as stack:
        for parent in parents:
            await stack.enter_async_context(aheld_run(parent, runnable.get_name()))
        with set_config_context(inner[0]) as context:
            outputs = await heard.acall(
                lambda: coro_with_context(runnable.abatch(list(values), inner, **kwargs), context)
            )
    return _told(outputs, each)


def _told(outputs: Sequence[object], heard: Sequence[Heard]) -> list[object]:
    each = zip(outputs, heard, strict=True)
    return [own.told(output) if isinstance(output, BaseException) else output for output, own in each]
