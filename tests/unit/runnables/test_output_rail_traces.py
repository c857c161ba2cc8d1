"""The output rail of ``guard()``: what traces show of it and of the chain."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from guardrail_plugin.runnables import guard
from guardrail_plugin.testing import ScriptedGuardian, verdict
from guardrail_plugin.testing.models import ScriptedModel

NO = "I can't help with that."
HARMFUL = ["A first ", "sentence here. ", "Now the ", "BOMB ", "recipe. ", "And ", "more."]


def safe(runnable: Any, **settings: Any) -> Any:
    judge = ScriptedGuardian({"BOMB": verdict(risk=0.9, hazard="S9")}, respond=NO)
    return guard(runnable, guardian=judge, rails=("input", "output"), **settings)


async def collect(chunks: AsyncIterator[Any]) -> list[Any]:
    return [chunk async for chunk in chunks]


async def test_traces_show_the_rails_and_an_empty_run_for_the_chain() -> None:
    for run in ("invoke", "batch", "stream", "ainvoke", "abatch", "astream"):
        recorder = RunCollectorCallbackHandler()
        config = {"callbacks": [recorder], "metadata": {"user": "u1"}}
        chain = safe(ScriptedModel(HARMFUL), name="safe")
        value: Any = ["hi"] if "batch" in run else "hi"
        result = getattr(chain, run)(value, config)
        if run == "astream":
            await collect(result)
        elif run.startswith("a"):
            await result
        else:
            list(result)
        [root] = recorder.traced_runs
        children = sorted(root.child_runs, key=lambda child: child.name)
        assert [child.name for child in children] == ["ScriptedModel", "guardrail.input", "guardrail.output"], run
        held, _, rail = children
        assert (held.inputs, held.outputs, held.child_runs) == ({}, {}, []), run
        assert "guardrail:held" in held.tags
        assert rail.outputs["action"] == "block"
        assert "BOMB" not in repr([[child.inputs, child.outputs, child.events, child.extra] for child in children])


async def test_handlers_of_the_chain_itself_still_hear_it() -> None:
    heard: list[str] = []

    class Own(BaseTracer):
        def _persist_run(self, run: Any) -> None:
            heard.append(run.name)

    chain = safe(ScriptedModel(HARMFUL).with_config(callbacks=[Own()]))
    chain.invoke("hi")
    assert heard == ["ScriptedModel"]
