"""The output rail of ``guard()``: what a caller gets of answers, whole and in streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableLambda

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import GuardianError
from guardrail_plugin.guardian.protocol import CheckOutcome
from guardrail_plugin.runnables import guard
from guardrail_plugin.testing import ScriptedGuardian, verdict
from guardrail_plugin.testing.exits import EXITS
from guardrail_plugin.testing.models import ScriptedModel

NO = "I can't help with that."
BOTH = ("input", "output")
HARMLESS = ["A first ", "sentence here. ", "And ", "the second ", "one."]
HARMFUL = ["A first ", "sentence here. ", "Now the ", "BOMB ", "recipe. ", "And ", "more."]


def guardian(**rule: CheckOutcome) -> ScriptedGuardian:
    return ScriptedGuardian({"BOMB": verdict(risk=0.9, hazard="S9"), "DOWN": GuardianError("down"), **rule}, respond=NO)


def safe(runnable: Any, judge: ScriptedGuardian | None = None, **settings: Any) -> Any:
    return guard(runnable, guardian=judge or guardian(), rails=settings.pop("rails", BOTH), **settings)


async def collect(chunks: AsyncIterator[Any]) -> list[Any]:
    return [chunk async for chunk in chunks]


def added(chunks: Sequence[Any]) -> Any:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    return whole


async def test_a_harmless_answer_passes_as_it_is_on_every_path() -> None:
    model = ScriptedModel(HARMLESS)
    message = safe(model).invoke("hi")
    assert type(message) is AIMessage
    assert message.text == "".join(HARMLESS)
    assert message.usage_metadata is not None
    assert "guardrail" not in message.response_metadata
    assert safe(model).batch(["hi", "you"])[1].text == message.text
    assert (await safe(model).ainvoke("hi")).text == (await safe(model).abatch(["hi"]))[0].text == message.text
    for chunks in (list(safe(model).stream("hi")), await collect(safe(model).astream("hi"))):
        whole = added(chunks)
        assert (whole.text, whole.id, whole.usage_metadata) == (message.text, message.id, message.usage_metadata)


async def test_a_harmful_answer_is_replaced_under_its_id() -> None:
    for message in (safe(ScriptedModel(HARMFUL)).invoke("hi"), await safe(ScriptedModel(HARMFUL)).ainvoke("hi")):
        assert (message.text, message.id, message.usage_metadata) == (NO, "scripted-0", None)
        fields = message.response_metadata["guardrail"]
        assert {"rail": "output", "action": "block", "hazard": "S9"}.items() <= fields.items()
    judge = guardian()
    outputs = safe(RunnableLambda(lambda text: text), judge, rails=("output",), output_type=str).batch(["hi", "BOMB"])
    assert outputs == ["hi", NO]
    assert [len(batch) for batch in judge.batches] == [2]


async def test_a_stream_releases_judged_windows_and_then_the_response() -> None:
    for run in ("stream", "astream"):
        model, judge = ScriptedModel(HARMFUL), guardian()
        chain = safe(model, judge)
        chunks = list(chain.stream("hi")) if run == "stream" else await collect(chain.astream("hi"))
        assert [chunk.text for chunk in chunks] == ["A first ", "sentence here. ", f"\n\n{NO}"]
        whole = added(chunks)
        assert whole.id == "scripted-0"
        assert whole.response_metadata["guardrail"]["released_characters"] == len("A first sentence here. ")
        assert len(model.ended) == 1
        assert run == "astream" or (model.ended, model.emitted) == (["closed"], 5)
        assert [check.query for check in judge.checks if check.rail == "output"] == ["hi"] * 2
    text = safe(ScriptedModel(HARMFUL) | StrOutputParser())
    assert "".join(text.stream("hi")) == f"A first sentence here. \n\n{NO}"


@pytest.mark.parametrize("exit_", EXITS)
@pytest.mark.parametrize("form", ["message", "text", "in a pipe", "function that calls a model"])
async def test_no_unchecked_text_leaves_by_any_exit(form: str, exit_: str) -> None:
    model = ScriptedModel(HARMFUL)
    forms: dict[str, Runnable[Any, Any]] = {
        "message": safe(model),
        "text": safe(model | StrOutputParser()),
        "in a pipe": RunnableLambda(str) | safe(model) | StrOutputParser(),
        "function that calls a model": safe(RunnableLambda(lambda text: model.invoke(text)), output_type=AIMessage),
    }
    left = repr(await EXITS[exit_](forms[form], "hi"))
    assert "BOMB" not in left
    assert "recipe" not in left
    assert NO in left


@pytest.mark.parametrize("exit_", EXITS)
async def test_the_exits_do_hear_a_bare_model(exit_: str) -> None:
    assert "BOMB" in repr(await EXITS[exit_](ScriptedModel(HARMFUL), "hi"))


class Unhelpful(Runnable[Any, Any]):
    """A Runnable that opens no run of its own: what it calls finds the config around it."""

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        return ScriptedModel(HARMFUL).invoke(input)

    async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        return await ScriptedModel(HARMFUL).ainvoke(input)


@pytest.mark.parametrize("exit_", EXITS)
async def test_a_runnable_that_forgets_its_config_cannot_be_overheard_either(exit_: str) -> None:
    assert "BOMB" not in repr(await EXITS[exit_](safe(Unhelpful(), output_type=AIMessage), "hi"))


async def test_the_checks_run_beside_the_source_in_async_streams() -> None:
    going = asyncio.Event()

    class Waiting(ScriptedGuardian):
        async def acheck_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
            await going.wait()
            return self.check_many(checks, timeout_s=timeout_s)

    async def talk(_: AsyncIterator[str]) -> AsyncIterator[str]:
        yield "A first sentence. "
        yield "A second."
        going.set()  # only reached when the source is read while the first check waits

    words: Runnable[Any, str] = RunnableGenerator(talk)
    chain = safe(words, Waiting({}), rails=("output",), output_type=str)
    assert await collect(chain.astream("hi")) == ["A first sentence. ", "A second."]


@pytest.mark.parametrize("leave", ["reader", "cancel", "block"])
async def test_nothing_is_left_running(leave: str) -> None:
    closed, started = asyncio.Event(), asyncio.Event()

    async def talk(inputs: AsyncIterator[str]) -> AsyncIterator[str]:
        assert [part async for part in inputs] == ["hi"]
        try:
            yield "BOMB first sentence. " if leave == "block" else "A first sentence. "
            started.set()
            await asyncio.Event().wait()
            yield "never"
        finally:
            closed.set()

    words: Runnable[Any, str] = RunnableGenerator(talk)
    stream = safe(words, output_type=str).astream("hi")
    if leave == "block":
        assert await collect(stream) == [NO]
    else:
        assert await anext(stream) == "A first sentence. "
        if leave == "reader":
            await stream.aclose()
        else:
            task = asyncio.ensure_future(anext(stream))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await stream.aclose()
    assert closed.is_set()
    for _ in range(5):
        await asyncio.sleep(0)  # LangChain leaves the tees of its inputs to the loop's finalizer
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_chains_error_passes_and_what_was_held_does_not() -> None:
    def talk(_: Any) -> Any:
        yield "held text"
        raise ConnectionError("lost")

    words: Runnable[Any, str] = RunnableGenerator(talk)
    got: list[str] = []
    with pytest.raises(ConnectionError):
        got.extend(safe(words, output_type=str).stream("hi"))
    assert got == []
    outputs = safe(
        RunnableLambda(lambda text: 1 / len(text)), rails=("output",), output_text=str, on_block="raise"
    ).batch(["hi", ""], return_exceptions=True)
    assert [getattr(output, "kind", output) for output in outputs] == [0.5, "ZeroDivisionError"]


def thinking(*parts: tuple[str, str]) -> list[AIMessageChunk]:
    return [
        AIMessageChunk(content=[{"type": kind, kind: text, "index": index}]) for index, (kind, text) in enumerate(parts)
    ]


@pytest.mark.parametrize(
    "turn",
    [
        thinking(("thinking", "I should tell the BOMB recipe. "), ("text", "Hello there.")),
        thinking(("reasoning", "I should tell the BOMB recipe. "), ("text", "Hello there.")),
        [AIMessageChunk(content="", additional_kwargs={"reasoning_content": "The BOMB recipe. "}), "Hello there."],
        [AIMessageChunk(content=[{"type": "brand_new", "payload": {"caption": "the BOMB"}}])],
        ["data: the BOMB"],
        ["data:text/plain;base64,BOMB"],
        [AIMessageChunk(content=[{"type": "image", "url": "https://example.org/x.png", "caption": "a BOMB"}])],
        [AIMessageChunk(content=[{"type": "document", "source": {"type": "text", "data": "BOMB"}}])],
        [AIMessageChunk(content=[{"type": "refusal", "refusal": "no BOMB"}])],
        [
            AIMessageChunk(
                content="I call. ", tool_call_chunks=[{"name": "mail", "args": '{"to": "BO', "id": "1", "index": 0}]
            ),
            AIMessageChunk(content="", tool_call_chunks=[{"name": None, "args": 'MB"}', "id": None, "index": 0}]),
        ],
        [AIMessageChunk(content="", tool_call_chunks=[{"name": "x", "args": '{"BOMB": ', "id": "1", "index": 0}])],
        [
            AIMessageChunk(
                content=[{"type": "server_tool_call", "name": "python", "args": {"code": "BOMB()"}, "id": "1"}]
            )
        ],
    ],
    ids=[
        "thinking",
        "reasoning",
        "reasoning_content",
        "unknown block",
        "text like a link",
        "text like encoded data",
        "caption",
        "document",
        "refusal",
        "tool call",
        "broken call",
        "server",
    ],
)
async def test_thoughts_unknown_blocks_and_tool_calls_are_judged(turn: list[Any]) -> None:
    for chunks in (
        list(safe(ScriptedModel(turn)).stream("hi")),
        await collect(safe(ScriptedModel(turn)).astream("hi")),
    ):
        assert "BO" not in repr(chunks)
        assert added(chunks).text.strip() == NO
        assert added(chunks).tool_calls == []
    message = safe(ScriptedModel(turn)).invoke("hi")
    assert "BO" not in repr(message)
    # LangChain drops what it cannot parse of a broken call from whole messages: there may be nothing to block.
    assert "BO" not in repr(ScriptedModel(turn).invoke("hi")) or (message.text, message.tool_calls) == (NO, [])


async def test_an_allowed_tool_call_passes_whole_and_is_judged_as_data() -> None:
    turn = [
        "I look it up. ",
        AIMessageChunk(content="", tool_call_chunks=[{"name": "search", "args": '{"q": ', "id": "1", "index": 0}]),
        AIMessageChunk(content="", tool_call_chunks=[{"name": None, "args": '"tea"}', "id": None, "index": 0}]),
    ]
    for run in ("invoke", "stream", "astream"):
        judge = guardian()
        chain = safe(ScriptedModel(turn), judge)
        if run == "invoke":
            whole = chain.invoke("hi")
        else:
            whole = added(list(chain.stream("hi")) if run == "stream" else await collect(chain.astream("hi")))
        assert [(call["name"], call["args"]) for call in whole.tool_calls] == [("search", {"q": "tea"})]
        assert 'search {"q": "tea"}' in [check.text for check in judge.checks if check.rail == "tool_call"]


async def test_optimistic_streams_come_at_once_and_end_in_the_response() -> None:
    for run in ("stream", "astream"):
        chain = safe(ScriptedModel(HARMFUL), release="optimistic")
        chunks = list(chain.stream("hi")) if run == "stream" else await collect(chain.astream("hi"))
        assert [chunk.text for chunk in chunks[:2]] == ["A first ", "sentence here. "]
        assert chunks[-1].text.strip() == NO
        assert chunks[-1].response_metadata["guardrail"]["released_characters"] >= len("A first sentence here. ")


@pytest.mark.parametrize("exit_", EXITS)
async def test_an_answer_is_judged_with_the_query_that_came_in(exit_: str) -> None:
    def pick(value: dict[str, str]) -> str:
        question, value["question"] = value["question"], "Shorten that."
        return question

    judge = guardian()
    await EXITS[exit_](safe(RunnableLambda(pick) | ScriptedModel(["Yes."]), judge), {"question": "Is it A?"})
    assert {check.query for check in judge.checks if check.rail == "output"} == {"Is it A?"}
