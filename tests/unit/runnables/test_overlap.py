"""``guard(overlap=True)``: the chain starts beside the guardian, and nothing of it counts before the verdict."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableLambda

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import BlockedError, ConfigError, GuardianError, GuardianTimeout
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.guardian.protocol import CheckOutcome
from guardrail_plugin.runnables import guard, guard_tool
from guardrail_plugin.runnables.gate import Gate, await_verdict, wait_for_verdict
from guardrail_plugin.testing import ScriptedGuardian, allow_all, verdict
from guardrail_plugin.testing.exits import EXITS
from guardrail_plugin.testing.models import ScriptedModel

NO = "I can't help with that."
RULE: dict[str, CheckOutcome] = {"BOMB": verdict(risk=0.9, hazard="S9"), "DOWN": GuardianError("down")}
WAIT_S = 5.0


class Late(ScriptedGuardian):
    """Judges inputs only when the chain has started: a guard that judges first would wait for ever."""

    def __init__(self) -> None:
        super().__init__(RULE, respond=NO)
        self.started = threading.Event()
        self.astarted = asyncio.Event()

    def check_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        assert self.started.wait(WAIT_S)
        return super().check_many(checks, timeout_s=timeout_s)

    async def acheck_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        await asyncio.wait_for(self.astarted.wait(), WAIT_S)
        self.started.set()
        return self.check_many(checks, timeout_s=timeout_s)


@pytest.mark.parametrize(("word", "answer"), [("hi", "HI"), ("BOMB", NO)])
def test_sync_calls_start_the_chain_beside_the_guardian(word: str, answer: str) -> None:
    judge = Late()

    def shout(text: str) -> str:
        judge.started.set()
        return text.upper()

    chain = guard(RunnableLambda(shout), guardian=judge, overlap=True)
    assert chain.invoke(word) == answer
    judge.started.clear()
    assert list(chain.stream(word)) == [answer]


@pytest.mark.parametrize("path", ["ainvoke", "astream"])
@pytest.mark.parametrize("word", ["hi", "BOMB"])
async def test_async_calls_overlap_and_a_block_cancels_the_chain(path: str, word: str) -> None:
    judge = Late()
    ended: list[str] = []

    async def talk(text: str) -> str:
        judge.astarted.set()
        try:
            if word == "BOMB":
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return text.upper()

    chain = guard(RunnableLambda(talk), guardian=judge, overlap=True)
    [got] = [await chain.ainvoke(word)] if path == "ainvoke" else [chunk async for chunk in chain.astream(word)]
    assert got == ("HI" if word == "hi" else NO)
    assert ended == ([] if word == "hi" else ["cancelled"])
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_cancelling_the_call_cancels_chain_and_guardian() -> None:
    judge, ended = Late(), asyncio.Event()

    async def talk(_: str) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return ""

    task = asyncio.create_task(guard(RunnableLambda(talk), guardian=judge, overlap=True).ainvoke("hi"))
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("exit_", EXITS)
@pytest.mark.parametrize("rails", [("input",), ("input", "output")])
async def test_no_word_of_the_chain_leaves_before_the_verdict(rails: Any, exit_: str) -> None:
    chain = guard(
        ScriptedModel(["secret ", "words"]), guardian=ScriptedGuardian(RULE, respond=NO), rails=rails, overlap=True
    )
    left = repr(await EXITS[exit_](chain, "a BOMB"))
    assert "secret" not in left
    assert NO in left


def test_a_blocked_sync_stream_is_closed_by_its_thread() -> None:
    judge, closed = Late(), threading.Event()
    go = threading.Event()

    def talk(_: Iterator[str]) -> Iterator[str]:
        judge.started.set()
        try:
            while True:
                go.wait(WAIT_S)
                yield "word "
        finally:
            closed.set()

    words: Runnable[Any, str] = RunnableGenerator(talk)
    assert list(guard(words, guardian=judge, overlap=True, output_type=str).stream("BOMB")) == [NO]
    go.set()
    assert closed.wait(WAIT_S)


@pytest.mark.parametrize("word", ["hi", "BOMB"])
def test_what_waits_for_the_verdict_runs_only_after_it(word: str) -> None:
    judge = Late()
    done: list[str] = []
    came = threading.Event()

    def act(text: str) -> str:
        judge.started.set()
        try:
            wait_for_verdict()
            done.append(text)
        except BlockedError:
            done.append("blocked")
        came.set()
        return text

    assert guard(RunnableLambda(act), guardian=judge, overlap=True).invoke(word) == (word if word == "hi" else NO)
    assert came.wait(WAIT_S)
    assert done == ["hi" if word == "hi" else "blocked"]


async def test_async_gates_nest_and_are_open_where_nothing_is_speculative() -> None:
    wait_for_verdict()
    await await_verdict()
    outer = Gate()
    outer.enter()
    inner = Gate()
    inner.open()
    outer.shut()
    with pytest.raises(BlockedError):
        await inner.await_open()
    with pytest.raises(BlockedError):
        inner.wait()


async def test_errors_count_only_when_the_input_is_allowed() -> None:
    def fail(_: str) -> str:
        raise ConnectionError("lost")

    chain = guard(RunnableLambda(fail), guardian=ScriptedGuardian(RULE, respond=NO), overlap=True)
    calls: list[Callable[[], Any]] = [lambda: chain.invoke("hi"), lambda: list(chain.stream("hi"))]
    for call in calls:
        with pytest.raises(ConnectionError):
            call()
    with pytest.raises(ConnectionError):
        await chain.ainvoke("hi")
    assert chain.invoke("BOMB") == await chain.ainvoke("BOMB") == NO
    assert [c async for c in chain.astream("BOMB")] == list(chain.stream("BOMB")) == [NO]


async def test_an_edited_input_runs_the_chain_anew() -> None:
    def ask(*_: object) -> str:
        return "edited"

    policy = Policy(rails={"input": {"action": "escalate"}})
    inputs: list[str] = []

    async def talk(parts: AsyncIterator[str]) -> AsyncIterator[str]:
        async for part in parts:
            inputs.append(part)
            yield part.upper()

    words: Runnable[Any, str] = RunnableGenerator(talk)
    chain = guard(words, guardian=ScriptedGuardian(RULE), overlap=True, policy=policy, on_escalate=ask, output_type=str)
    assert [chunk async for chunk in chain.astream("BOMB")] == ["EDITED"]
    assert inputs[-1] == "edited"
    plain = guard(
        RunnableLambda(str.upper), guardian=ScriptedGuardian(RULE), overlap=True, policy=policy, on_escalate=ask,
        output_type=str,
    )  # fmt: skip
    assert plain.invoke("BOMB") == await plain.ainvoke("BOMB") == "EDITED"
    assert list(plain.stream("BOMB")) == ["EDITED"]


@pytest.mark.parametrize("path", ["invoke", "ainvoke", "stream", "astream"])
async def test_what_came_in_is_judged_whatever_the_chain_makes_of_it(path: str) -> None:
    judge = Late()

    def begin(messages: list[Any]) -> str:
        messages += [AIMessage("Understood."), HumanMessage("Answer in one sentence.")]
        judge.started.set()
        judge.astarted.set()
        return "HARM"

    async def abegin(messages: list[Any]) -> str:
        return begin(messages)

    safe = guard(RunnableLambda(begin, abegin), guardian=judge, overlap=True)
    assert await said(safe, path, [HumanMessage("a BOMB")]) == NO
    assert [check.text for check in judge.checks] == ["a BOMB"]


@pytest.mark.parametrize("path", ["invoke", "ainvoke", "stream", "astream"])
async def test_an_edit_is_written_into_what_came_in(path: str) -> None:
    judge, given = Late(), []

    def begin(value: dict[str, Any]) -> str:
        given.append(value.pop("messages"))
        value["messages"] = [*given[-1], AIMessage("Understood."), HumanMessage("Answer in one sentence.")]
        judge.started.set()
        judge.astarted.set()
        return "an answer"

    async def abegin(value: dict[str, Any]) -> str:
        return begin(value)

    policy = Policy(rails={"input": {"action": "escalate"}})
    safe = guard(
        RunnableLambda(begin, abegin), guardian=judge, overlap=True, policy=policy, on_escalate=lambda *_: "edited"
    )
    assert await said(safe, path, {"messages": [HumanMessage("a BOMB")]}) == "an answer"
    assert [message.text for message in given[-1]] == ["edited"]


async def said(safe: Any, path: str, value: Any) -> str:
    if path == "invoke":
        return str(safe.invoke(value))
    if path == "ainvoke":
        return str(await safe.ainvoke(value))
    if path == "stream":
        return "".join(safe.stream(value))
    return "".join([chunk async for chunk in safe.astream(value)])


def search(q: str) -> str:
    """Search."""
    return f"found {q}"


@pytest.mark.parametrize("rails", [("input",), ("input", "output")])
async def test_tools_act_on_an_edited_input(rails: Any) -> None:
    tool = guard_tool(search, guardian=allow_all())

    async def talk(parts: AsyncIterator[str]) -> AsyncIterator[str]:
        async for part in parts:
            yield await tool.ainvoke({"q": part})

    policy = Policy(rails={"input": {"action": "escalate"}})
    words: Runnable[Any, str] = RunnableGenerator(talk)
    safe = guard(
        words, guardian=ScriptedGuardian(RULE), rails=rails, overlap=True, policy=policy, on_escalate=lambda *_: "tea",
        output_type=str,
    )  # fmt: skip
    assert await asyncio.wait_for(said(safe, "astream", "a BOMB"), WAIT_S) == "found tea"


async def test_a_tool_that_would_stop_the_loop_is_refused() -> None:
    tool, judge = guard_tool(search, guardian=allow_all()), Late()

    async def act(text: str) -> str:
        judge.astarted.set()
        return str(tool.invoke({"q": text}))

    with pytest.raises(ConfigError, match="call it with ainvoke"):
        await guard(RunnableLambda(act), guardian=judge, overlap=True).ainvoke("hi")


def test_a_thread_waits_for_the_verdict_only_so_long() -> None:
    gate = Gate(wait_s=0.01)
    with pytest.raises(GuardianTimeout, match=r"0\.01 s"):
        gate.wait()
    gate.open()
    gate.wait()


async def test_a_loop_of_its_own_may_wait() -> None:
    gate = Gate(wait_s=WAIT_S)

    async def wait() -> None:
        gate.wait()

    waiting = asyncio.create_task(asyncio.to_thread(asyncio.run, wait()))
    await asyncio.sleep(0.01)
    gate.open()
    await waiting


def test_a_person_may_think_longer_than_a_guardian() -> None:
    def wait_s(**settings: Any) -> float:
        safe = guard(RunnableLambda(search), guardian=allow_all(), policy=Policy(timeout_s=2.0), **settings)
        return safe._calls.input.verdict_within_s

    assert wait_s() == 7.0
    assert wait_s(on_escalate=lambda *_: "allow") >= 3600


async def test_a_loop_that_waits_for_its_own_verdict_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step on the loop calls a chain with invoke, which runs the tool in a thread, which waits for the loop."""
    monkeypatch.setattr("guardrail_plugin.runnables.gate._STANDSTILL_S", 0.2)
    gate = Gate(wait_s=60.0)

    def in_a_thread() -> None:
        gate.wait()

    with ThreadPoolExecutor(1) as threads, pytest.raises(ConfigError, match="ainvoke"):
        threads.submit(in_a_thread).result(10)  # what holds the loop up
    running = asyncio.create_task(asyncio.to_thread(in_a_thread))
    await asyncio.sleep(0.5)
    gate.open()
    await running
