"""Nothing of a call is kept once it has ended: streams inside are closed, what an error's frames held is freed."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda

from guardrail_plugin.runnables import guard
from guardrail_plugin.testing import allow_all
from guardrail_plugin.testing.models import ScriptedModel

LONG = ["Hello there my friend. "] + ["More text here now. "] * 2000
SETTINGS: list[dict[str, Any]] = [
    {"rails": ("input", "output")},
    {"rails": ("input", "output"), "overlap": True},
    {"rails": ("input",), "overlap": True},
    {"rails": ("input",)},
]


class Answer(str):
    """Text that can be watched."""

    __slots__ = ("__weakref__",)


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("settings", SETTINGS, ids=repr)
async def test_a_reader_that_leaves_closes_the_model_inside_a_sequence(settings: dict[str, Any]) -> None:
    model = ScriptedModel(LONG)
    stream = guard(RunnableLambda(lambda text: text) | model, guardian=allow_all(), **settings).astream("hi")
    await anext(stream)
    await stream.aclose()
    del stream
    for _ in range(100):  # asyncio closes what nothing refers to in tasks of its own
        await asyncio.sleep(0)
    assert model.ended == ["closed"]


def test_the_sync_stream_too() -> None:
    model = ScriptedModel(LONG)
    stream = guard(RunnableLambda(lambda text: text) | model, guardian=allow_all(), **SETTINGS[0]).stream("hi")
    next(stream)
    stream.close()
    assert model.ended == ["closed"]


@pytest.mark.parametrize("path", ["invoke", "stream", "batch", "ainvoke", "astream", "abatch"])
@pytest.mark.parametrize("error", [TimeoutError("slow"), ValueError("other")], ids=repr)
@pytest.mark.parametrize("settings", SETTINGS, ids=repr)
async def test_an_error_frees_what_its_frames_held(path: str, error: Exception, settings: dict[str, Any]) -> None:
    held: list[weakref.ref[Answer]] = []

    def work(text: str) -> str:
        answer = Answer(text)
        held.append(weakref.ref(answer))
        raise type(error)(len(answer))

    chain = guard(RunnableLambda(work), guardian=allow_all(), output_type=str, **settings)

    async def call() -> None:
        try:
            match path:
                case "invoke":
                    chain.invoke("hi")
                case "stream":
                    list(chain.stream("hi"))
                case "batch":
                    chain.batch(["hi"])
                case "ainvoke":
                    await chain.ainvoke("hi")
                case "abatch":
                    await chain.abatch(["hi"])
                case _:
                    [chunk async for chunk in chain.astream("hi")]
        except Exception:
            return
        raise AssertionError("nothing was raised")

    await call()
    for _ in range(10):
        await asyncio.sleep(0)
    # A thread that handed the error over wakes its reader before it lets go of it itself.
    await asyncio.get_running_loop().shutdown_default_executor()
    for thread in threading.enumerate():
        if thread.name.startswith("guardrail-overlap"):
            thread.join(20.0)
    assert [ref() for ref in held] == [None]
