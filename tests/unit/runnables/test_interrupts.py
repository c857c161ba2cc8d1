"""Cancellation, Ctrl-C and LangGraph's control flow pass through a guard; nothing is left running."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.runnables import Runnable, RunnableLambda

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.core.verdict import Verdict
from guardrail_plugin.runnables import guard
from guardrail_plugin.testing import ScriptedGuardian, allow_all


def raising(error: BaseException) -> Callable[..., Any]:
    def run(*_: object) -> Verdict:
        raise error

    return run


def places(error: BaseException) -> dict[str, Runnable[Any, Any]]:
    """Return guards in which the guardian, or the chain, raises. The laxest policy must not swallow it."""
    lax = Policy(on_failure="allow")
    plain: RunnableLambda[Any, Any] = RunnableLambda(lambda text: text)
    return {
        "guardian": guard(plain, guardian=ScriptedGuardian(raising(error)), policy=lax, output_type=str),
        "chain": guard(RunnableLambda(raising(error)), guardian=allow_all(), policy=lax, output_type=str),
        "chain of two": guard(
            RunnableLambda(raising(error)) | plain, guardian=allow_all(), policy=lax, output_type=str
        ),
    }


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)], ids=repr)
@pytest.mark.parametrize("place", ["guardian", "chain", "chain of two"])
def test_ctrl_c_passes_even_with_return_exceptions(place: str, error: BaseException) -> None:
    chain = places(error)[place]
    for call in (
        lambda: chain.invoke("hi"),
        lambda: chain.batch(["hi"]),
        lambda: chain.batch(["hi"], return_exceptions=True),
        lambda: list(chain.stream("hi")),
    ):
        with pytest.raises(type(error)):
            call()


@pytest.mark.parametrize("place", ["guardian", "chain", "chain of two"])
async def test_control_flow_of_langgraph_passes(place: str) -> None:
    errors = pytest.importorskip("langgraph.errors")
    chain = places(errors.GraphInterrupt(()))[place]
    with pytest.raises(errors.GraphInterrupt):
        chain.invoke("hi")
    with pytest.raises(errors.GraphInterrupt):
        await chain.ainvoke("hi")
    with pytest.raises(errors.GraphInterrupt):
        await chain.abatch(["hi", "hi"])
    with pytest.raises(errors.GraphInterrupt):
        [chunk async for chunk in chain.astream("hi")]


@pytest.mark.parametrize("path", ["ainvoke", "abatch", "abatch, return_exceptions", "astream"])
@pytest.mark.parametrize("two_steps", [False, True])
async def test_cancelling_a_call_cancels_the_chain_and_passes(path: str, two_steps: bool) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def work(text: str) -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return text

    inner: Runnable[Any, Any] = RunnableLambda(work)
    chain = guard(inner | RunnableLambda(work) if two_steps else inner, guardian=allow_all())

    async def call() -> object:
        if path == "ainvoke":
            return await chain.ainvoke("hi")
        if path == "astream":
            return [chunk async for chunk in chain.astream("hi")]
        return await chain.abatch(["hi", "you"], return_exceptions=path.endswith("exceptions"))

    task = asyncio.create_task(call())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_time_limit_around_a_batch_is_kept() -> None:
    async def work(text: str) -> str:
        await asyncio.Event().wait()
        return text

    chain = guard(RunnableLambda(work) | RunnableLambda(work), guardian=allow_all())
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(chain.abatch(["hi", "you"], return_exceptions=True), timeout=0.01)


async def test_a_guard_works_in_every_loop_and_sync_code_inside_one() -> None:
    asked: list[Check] = []

    def note(check: Check) -> Verdict:
        asked.append(check)
        return allow_all().check_many([check])[0]  # type: ignore[return-value]

    chain = guard(RunnableLambda(lambda text: text), guardian=ScriptedGuardian(note), output_type=str)
    assert chain.invoke("inside a loop") == "inside a loop"
    assert await chain.ainvoke("here") == "here"
    assert await asyncio.to_thread(lambda: asyncio.run(chain.ainvoke("another loop"))) == "another loop"
    assert [check.text for check in asked] == ["inside a loop", "here", "another loop"]
