"""The rail in callbacks, run trees, events and logs: visible, nested in the right place, without the user's text."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langchain_core.tracers.schemas import Run

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import BlockedError, GuardianError, InferenceError
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.flow import Failed
from guardrail_plugin.guardian.protocol import CheckOutcome
from guardrail_plugin.runnables import guard
from guardrail_plugin.runnables.rail_runs import failure_of
from guardrail_plugin.testing import ScriptedGuardian, verdict

RULE: dict[str, CheckOutcome] = {"BOMB": verdict(risk=0.9, hazard="S9"), "DOWN": GuardianError("the guardian is down")}
SECRET = "a-secret-word"


def names(run: Run) -> Any:
    return (run.name, [names(child) for child in run.child_runs]) if run.child_runs else run.name


def rails(run: Run) -> list[Run]:
    found = [run] if run.name.startswith("guardrail.") else []
    return found + [rail for child in run.child_runs for rail in rails(child)]


def chain(**settings: Any) -> Runnable[str, str]:
    inner = RunnableLambda(lambda text: text.upper(), name="shout")
    return guard(inner, guardian=ScriptedGuardian(RULE), output_type=str, name="safe", **settings)


async def collect(runnable: Runnable[Any, Any], value: Any) -> dict[str, list[Run]]:
    """Run every path once with a recorder and return the roots by path."""
    recorders = {
        path: RunCollectorCallbackHandler() for path in ("invoke", "batch", "stream", "ainvoke", "abatch", "astream")
    }

    def config(path: str) -> Any:
        return {"callbacks": [recorders[path]], "tags": ["mine"], "metadata": {"user": "u1"}}

    runnable.invoke(value, config("invoke"))
    runnable.batch([value], config("batch"))
    list(runnable.stream(value, config("stream")))
    await runnable.ainvoke(value, config("ainvoke"))
    await runnable.abatch([value], config("abatch"))
    assert [chunk async for chunk in runnable.astream(value, config("astream"))]
    return {path: recorder.traced_runs for path, recorder in recorders.items()}


@pytest.mark.parametrize(("word", "runs"), [("hi", ["guardrail.input", "shout"]), ("BOMB", ["guardrail.input"])])
async def test_the_rail_is_a_child_run_before_the_chains(word: str, runs: list[str]) -> None:
    for path, roots in (await collect(chain(), f"{word} {SECRET}")).items():
        [root] = roots
        assert names(root) == ("safe", runs), path
        [rail] = rails(root)
        assert rail.inputs == {"rail": "input"}
        assert rail.outputs is not None
        assert rail.outputs["action"] == ("block" if word == "BOMB" else "allow")
        assert rail.outputs["hazard"] == ("S9" if word == "BOMB" else None)
        assert {"guardrail", "mine"} <= set(rail.tags or [])
        assert rail.extra is not None
        assert rail.extra["metadata"]["user"] == "u1"


@pytest.mark.parametrize("word", ["hi", "BOMB", "DOWN"])
async def test_the_rails_run_never_holds_text(word: str) -> None:
    for path, roots in (await collect(chain(), f"{word} {SECRET}")).items():
        [rail] = rails(roots[0])
        recorded = repr([rail.inputs, rail.outputs, rail.error, rail.events, rail.extra, rail.serialized])
        assert SECRET not in recorded, path
        assert "help" not in recorded, path  # nor the safeguard response


def test_the_wrappers_own_run_records_what_the_bare_chain_would() -> None:
    recorder = RunCollectorCallbackHandler()
    chain().invoke(f"hi {SECRET}", {"callbacks": [recorder]})
    [root] = recorder.traced_runs
    assert root.inputs == {"input": f"hi {SECRET}"}


async def test_inside_a_pipe_the_runs_nest() -> None:
    prompt = ChatPromptTemplate.from_messages([("human", "{question}")])
    pipe = prompt | guard(FakeListChatModel(responses=["x"]), guardian=ScriptedGuardian(RULE)) | StrOutputParser()
    for path, roots in (await collect(pipe, {"question": "hi"})).items():
        guarded = ("guard<FakeListChatModel>", ["guardrail.input", "FakeListChatModel"])
        assert names(roots[0]) == ("RunnableSequence", ["ChatPromptTemplate", guarded, "StrOutputParser"]), path


def test_each_item_of_a_batch_has_its_rail_run() -> None:
    recorders = [RunCollectorCallbackHandler() for _ in range(3)]
    outputs = chain(on_block="raise").batch(
        ["hi", "BOMB", "you"], [{"callbacks": [recorder]} for recorder in recorders], return_exceptions=True
    )
    assert [type(output) for output in outputs] == [str, BlockedError, str]
    told = [rail.outputs["action"] for r in recorders for rail in rails(r.traced_runs[0]) if rail.outputs]
    assert told == ["allow", "block", "allow"]
    assert [r.traced_runs[0].error is None for r in recorders] == [True, False, True]


def test_a_block_ends_the_rail_well_and_a_failure_ends_it_with_its_error() -> None:
    for word, failed in (("BOMB", False), ("DOWN", True)):
        recorder = RunCollectorCallbackHandler()
        raising = chain(policy=Policy(on_block="raise", on_failure="raise"))
        with pytest.raises((BlockedError, GuardianError)):
            raising.invoke(f"{word} {SECRET}", {"callbacks": [recorder]})
        [rail] = rails(recorder.traced_runs[0])
        assert (rail.error is not None) == failed
        assert SECRET not in str(recorder.traced_runs[0].error)


async def test_cancellation_ends_the_rails_run() -> None:
    class Slow(ScriptedGuardian):
        async def acheck_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
            started.set()
            await asyncio.Event().wait()
            raise AssertionError("never set")

    started, recorder = asyncio.Event(), RunCollectorCallbackHandler()
    safe = guard(RunnableLambda(str.upper), guardian=Slow(RULE), output_type=str)
    task = asyncio.create_task(safe.abatch(["hi"], {"callbacks": [recorder]}, return_exceptions=True))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    [rail] = rails(recorder.traced_runs[0])
    assert rail.error is not None
    assert "CancelledError" in rail.error


async def test_events_v2_show_the_rail_and_stream_the_model() -> None:
    prompt = ChatPromptTemplate.from_messages([("human", "{question}")])
    pipe = prompt | guard(FakeListChatModel(responses=["abc"]), guardian=ScriptedGuardian(RULE)) | StrOutputParser()
    for word, streamed in (("hi", list("abc")), ("BOMB", [])):
        events = [event async for event in pipe.astream_events({"question": word}, version="v2")]
        seen = [(event["event"], event["name"]) for event in events]
        assert seen.index(("on_chain_start", "guardrail.input")) < seen.index(("on_chain_end", "guardrail.input"))
        chunks = [event["data"]["chunk"] for event in events if event["event"] == "on_chat_model_stream"]
        assert [chunk.content for chunk in chunks if isinstance(chunk, BaseMessage) and chunk.content] == streamed
        kept = [
            event async for event in pipe.astream_events({"question": word}, version="v2", exclude_tags=["guardrail"])
        ]
        assert "guardrail.input" not in {event["name"] for event in kept}
        assert kept[-1]["data"]["output"] == ("abc" if word == "hi" else "I can't help with that.")


@pytest.mark.filterwarnings("ignore::langchain_core._api.deprecation.LangChainDeprecationWarning")
async def test_events_v1_and_the_run_log_work() -> None:
    for word, answer in (("hi", "HI"), ("BOMB", "I can't help with that.")):
        events = [event async for event in chain().astream_events(word, version="v1")]
        assert "guardrail.input" in {event["name"] for event in events}
        assert events[-1]["data"]["output"] == answer
        log = [entry async for entry in chain().astream_log(word, diff=False)]
        assert log[-1].state["final_output"] == answer
        assert "guardrail.input" in log[-1].state["logs"]


async def test_a_missing_verdict_is_logged_without_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="guardrail_plugin")
    chain().invoke(f"DOWN {SECRET}")
    await chain(policy=Policy(on_failure="allow")).ainvoke(f"DOWN {SECRET}")
    chain().invoke("")
    chain().invoke(f"BOMB {SECRET}")
    assert [(r.levelname, r.getMessage().partition(": the")[0]) for r in caplog.records] == [
        ("WARNING", "input rail: no verdict, action block: the guardian is down".partition(": the")[0]),
        ("WARNING", "input rail: no verdict, action allow"),
        ("INFO", "input rail: no verdict, action block"),
    ]
    assert SECRET not in caplog.text


def test_a_failed_rails_trace_does_not_hold_what_others_said() -> None:
    """Tracers print the chain of causes; a third party's replica may quote the text in its error."""
    error = InferenceError("the model failed")
    error.__cause__ = ValueError("what the user wrote")
    told = failure_of(Failed("input", error))
    assert isinstance(told, InferenceError)
    assert "what the user wrote" not in "".join(traceback.format_exception(told))
    assert error.__cause__ is not None  # the caller's own error keeps it
