"""Images, sound and files in an answer: no rail reads them, so they leave only where ``on_uncheckable`` lets them."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableLambda

from guardrail_plugin import BlockedError, GuardianError, InputError, Policy, guard, guard_model
from guardrail_plugin.flow import Allowed, Blocked, Failed, HoldBack, Part, Rules, Uncheckable, Window, output_rail
from guardrail_plugin.flow.drivers import run_sync
from guardrail_plugin.runnables.answer_files import files_in
from guardrail_plugin.runnables.answers import Asked, ChunkReader, read_answer
from guardrail_plugin.runnables.guarded_model import Ended
from guardrail_plugin.runnables.views import read_input
from guardrail_plugin.testing import ScriptedGuardian, ScriptedModel, verdict
from guardrail_plugin.testing.exits import EXITS

PIXELS = "iVBORw0KGgoAAAANSUhEUgAA"
LINK = f"data:image/png;base64,{PIXELS}"
TEXT = {"type": "text", "text": "Here it is. "}
MADE = {"type": "image_generation_call", "id": "i", "status": "completed", "result": PIXELS}
NO = "holds an image or file"

FILES: dict[str, tuple[Any, dict[str, Any]]] = {
    "image": ([{"type": "image", "base64": PIXELS, "mime_type": "image/png"}], {}),
    "image by link": ([{"type": "image", "url": "https://example.org/x.png"}], {}),
    "image_url": ([{"type": "image_url", "image_url": {"url": LINK}}], {}),
    "under its own name": ([{"type": "image", "image": PIXELS}], {}),
    "input_image": ([{"type": "input_image", "image_url": LINK}], {}),
    "Bedrock's": ([{"image": {"format": "png", "source": {"bytes": b"\x89PNG\x00\xff"}}}], {}),
    "audio": ([{"type": "audio", "base64": PIXELS, "mime_type": "audio/wav"}], {}),
    "file": ([{"type": "file", "file_id": "file-1"}], {}),
    "pdf": ([{"type": "file", "base64": "JVBERi0xLjcKAP/+", "mime_type": "application/pdf"}], {}),
    "in another block": ([{"type": "non_standard", "value": {"type": "image_url", "image_url": LINK}}], {}),
    "result of a server's tool": (
        [{"type": "server_tool_result", "output": [{"type": "image", "base64": PIXELS}]}],
        {},
    ),
    "an image that was made": ([MADE], {}),
    "empty yet": ([{"type": "image", "index": 0}], {}),
    "sound beside": ([], {"audio": {"id": "a", "data": "AAAA", "transcript": "Hello."}}),
    "bytes beside": ([], {"audio": b"RIFF\x00\xff"}),
    "images beside": ([], {"images": [{"type": "image_url", "image_url": {"url": LINK}}]}),
    "bare images beside": ([], {"images": [PIXELS]}),
    "tool outputs beside": ([], {"tool_outputs": [MADE]}),
}
FINE: dict[str, tuple[Any, dict[str, Any]]] = {
    "encrypted reasoning": ([{"type": "redacted_thinking", "data": PIXELS}], {}),
    "wrapped reasoning": ([{"type": "non_standard", "value": {"type": "redacted_thinking", "data": PIXELS}}], {}),
    "reasoning item": ([{"type": "reasoning", "id": "r", "summary": [], "encrypted_content": PIXELS}], {}),
    "details of reasoning": ([], {"reasoning_details": [{"type": "reasoning.encrypted", "data": PIXELS}]}),
    "signature": ([{"type": "thinking", "thinking": "Well.", "signature": PIXELS}], {}),
    "signature in bytes": ([{"type": "text", "text": "So.", "extras": {"signature": b"\x89\x00\xff"}}], {}),
    "signature beside": ([], {"thought_signature": b"\x89\x00\xff"}),
    "citations": ([{**TEXT, "annotations": [{"type": "url_citation", "url": "https://example.org/x.png"}]}], {}),
    "cited documents": ([], {"citations": [{"sources": [{"type": "document", "document": {"url": "https://e.org"}}]}]}),
    "cited links": ([], {"citations": ["https://example.org"], "search_results": [{"url": "https://example.org"}]}),
    "spoken text": ([], {"audio": {"id": "a", "transcript": "Hello."}}),
    "file of text": ([{"type": "file", "base64": "ZmluZQ==", "mime_type": "text/plain"}], {}),
}


def judge() -> ScriptedGuardian:
    return ScriptedGuardian({"BOMB": verdict(risk=0.9, hazard="S9")}, respond="I can't help with that.")


def turn(form: tuple[Any, dict[str, Any]], text: str = "Here it is. ") -> list[AIMessageChunk]:
    """Say something, show it, and say more."""
    blocks, beside = form
    return [
        AIMessageChunk(content=[{"type": "text", "text": text}]),
        AIMessageChunk(content=blocks, additional_kwargs=beside),
        AIMessageChunk(content=[{"type": "text", "text": "And more words. And an end."}]),
    ]


def whole(form: tuple[Any, dict[str, Any]], *, text: bool = True) -> AIMessage:
    return AIMessage([*([TEXT] if text else []), *form[0]], additional_kwargs=form[1])


def safe(chain: Runnable[Any, Any], **settings: Any) -> Any:
    return guard(chain, guardian=judge(), rails=("input", "output"), **settings)


def holds_file(left: object) -> bool:
    return any(sign in repr(left) for sign in (PIXELS, "x.png", "RIFF", "PNG", "AAAA", "file-1", "JVBER", "'image'"))


@pytest.mark.parametrize("exit_", EXITS)
@pytest.mark.parametrize("form", FILES)
async def test_no_file_leaves_by_any_exit_unless_it_may(form: str, exit_: str) -> None:
    left = await EXITS[exit_](safe(ScriptedModel(turn(FILES[form]))), "hi")
    assert not holds_file(left)
    assert NO in repr(left)


@pytest.mark.parametrize("form", FILES)
async def test_no_file_leaves_a_guarded_model(form: str) -> None:
    model = guard_model(ScriptedModel(turn(FILES[form])), guardian=judge())
    left = [model.invoke("hi"), await model.ainvoke("hi"), list(model.stream("hi"))]
    left.append([chunk async for chunk in model.astream("hi")])
    for said in left:
        assert not holds_file(said)
        assert NO in repr(said)


@pytest.mark.parametrize("form", FILES)
async def test_files_leave_where_they_may(form: str) -> None:
    chain = safe(ScriptedModel(turn(FILES[form])), on_uncheckable="allow")
    for left in (chain.invoke("hi"), list(chain.stream("hi")), [chunk async for chunk in chain.astream("hi")]):
        assert holds_file(left)
        assert NO not in repr(left)


def test_where_files_may_leave_a_stream_waits_for_none() -> None:
    model = ScriptedModel([*turn(FILES["image"]), *(f"Sentence {number}. " for number in range(9))])
    seen = [model.emitted for _ in safe(model, on_uncheckable="allow").stream("hi")]
    assert seen[0] < seen[-1] - 5


@pytest.mark.parametrize("form", FINE)
async def test_what_only_its_provider_reads_and_sources_pass(form: str) -> None:
    chain = safe(ScriptedModel(turn(FINE[form])))
    for left in (chain.invoke("hi"), list(chain.stream("hi")), [chunk async for chunk in chain.astream("hi")]):
        assert NO not in repr(left)
        assert "an end" in repr(left)
    assert files_in(whole(FINE[form])) == ()


@pytest.mark.parametrize("form", FILES)
async def test_a_file_alone_never_leaves(form: str) -> None:
    message = whole(FILES[form], text=False)
    chunk = AIMessageChunk(content=message.content, additional_kwargs=message.additional_kwargs)
    models: list[Runnable[Any, Any]] = [ScriptedModel([chunk]), RunnableLambda(lambda _: message)]
    for model in models:
        chain = safe(model, **({} if isinstance(model, ScriptedModel) else {"output_type": AIMessage}))
        for left in (chain.invoke("hi"), list(chain.stream("hi")), await chain.ainvoke("hi"), chain.batch(["hi"])):
            assert not holds_file(left)
            assert "I can't show this answer" in repr(left)


async def test_a_policy_that_raises_and_a_setting_that_raises() -> None:
    model = ScriptedModel(turn(FILES["image"]))
    for settings, error in (({"on_uncheckable": "raise"}, InputError), ({"on_block": "raise"}, BlockedError)):
        chain = safe(model, **settings)
        with pytest.raises(error):
            chain.invoke("hi")
        with pytest.raises(error):
            list(chain.stream("hi"))
        with pytest.raises(error):
            await chain.ainvoke("hi")


def test_text_beside_a_file_is_judged_as_ever() -> None:
    for order in ("block", "allow"):
        chain = safe(ScriptedModel(turn(FILES["image"], "The BOMB. ")), on_uncheckable=order)
        for left in (chain.invoke("hi"), list(chain.stream("hi"))):
            assert "I can't help with that." in repr(left)
            assert not holds_file(left)


def test_a_made_image_is_not_judged_as_text() -> None:
    guardian = judge()
    guard(ScriptedModel(turn(FILES["an image that was made"])), guardian=guardian, rails=("output",)).invoke("hi")
    assert guardian.checks
    assert all(PIXELS not in check.text for check in guardian.checks)
    said = {**MADE, "result": "words that are said, and no picture"}
    answer = read_answer(AIMessage([TEXT, said]), Asked(), None)
    assert isinstance(answer.subject, tuple)
    assert "no picture" in answer.subject[0].text


def test_an_optimistic_stream_holds_files_too() -> None:
    chunks = list(safe(ScriptedModel(turn(FILES["image"])), release="optimistic").stream("hi"))
    assert not holds_file(chunks)
    assert NO in chunks[-1].text


def test_output_text_hides_no_file() -> None:
    def text(message: Any) -> str:
        return str(message.text)

    chain = safe(RunnableLambda(lambda _: whole(FILES["image"])), output_text=text, output_type=AIMessage)
    for left in (chain.invoke("hi"), list(chain.stream("hi"))):
        assert not holds_file(left)
        assert NO in repr(left)


def test_a_file_beside_a_tool_call_is_withheld() -> None:
    call = {"name": "mail", "args": "{}", "id": "1", "index": 0}
    chunks = [*turn(FILES["image"]), AIMessageChunk(content="", tool_call_chunks=[call])]
    for left in (safe(ScriptedModel(chunks)).invoke("hi"), list(safe(ScriptedModel(chunks)).stream("hi"))):
        assert not holds_file(left)
        assert "mail" not in repr(left)
    # What a call is given is no part of the answer: it is judged as data.
    named = AIMessage("Fine.", tool_calls=[{"name": "show", "args": {"type": "image", "url": LINK}, "id": "1"}])
    assert files_in(named) == ()
    assert files_in(AIMessage([{"type": "tool_use", "name": "show", "input": {"type": "image", "url": LINK}}])) == ()


def test_nobody_is_asked_about_an_answer_that_cannot_go_on() -> None:
    asked: list[object] = []

    def ask(*what: object) -> str:
        asked.append(what)
        return "allow"

    guardian = ScriptedGuardian({"BOMB": verdict(risk=0.9, hazard="S9")})
    model = ScriptedModel(turn(FILES["image"], "The BOMB. "))
    settings: dict[str, Any] = {"policy": Policy(rails={"output": {"action": "escalate"}}), "on_escalate": ask}
    chain = guard(model, guardian=guardian, rails=("output",), **settings)
    for left in (chain.invoke("hi"), list(chain.stream("hi"))):
        assert not holds_file(left)
    assert asked == []
    chain = guard(model, guardian=guardian, rails=("output",), on_uncheckable="allow", **settings)
    assert holds_file(chain.invoke("hi"))
    assert len(asked) == 1


def test_an_answer_to_which_a_file_was_added_is_another_answer() -> None:
    answer = Ended(Allowed("output"), "m", text="Here it is. ")
    assert answer.made(AIMessage([TEXT], id="m"))
    assert not answer.made(AIMessage([TEXT, *FILES["image"][0]], id="m"))
    assert Ended(Allowed("output"), "m", text="Here it is. ", files=("image",)).made(whole(FILES["image"]))


def test_the_rail_decides_about_what_stands_beside() -> None:
    beside = Uncheckable("the answer holds image", beside=True)
    outcomes = {
        order: run_sync(
            output_rail((), asked=None, rules=Rules(policy=Policy(), on_uncheckable=order), beside=beside), judge()
        )
        for order in ("block", "allow", "raise")
    }
    assert [type(outcome) for outcome in outcomes.values()] == [Blocked, Allowed, Failed]
    assert isinstance(outcomes["block"], Blocked)
    assert isinstance(outcomes["block"].error, InputError)


def test_a_file_does_not_pass_with_a_failure_that_may() -> None:
    rules = Rules(policy=Policy(on_failure="allow"))
    held: HoldBack[str] = HoldBack(window=Window("sentence"), rules=rules)
    held.add("words", Part("Some words."))
    held.add("image", Part(unread=True))
    held.end((), nothing=Uncheckable("the answer holds image", beside=True))
    held.judged([GuardianError("down") for _ in held.wanted()])
    outcome = run_sync(held.ending(), judge())
    held.settled(outcome)
    assert isinstance(outcome, Blocked)
    assert held.take() == []


def test_a_reader_marks_the_chunks_that_hold_files() -> None:
    reader = ChunkReader()
    assert [reader.read(chunk).unread for chunk in turn(FILES["image"])] == [False, True, False]
    told = reader.nothing()
    assert told is not None
    assert told.beside
    assert "image" in told.reason


@pytest.mark.parametrize(
    "item",
    [
        {"role": "remove", "content": "BOMB", "id": "1"},
        {"type": "remove", "content": "BOMB", "id": "1"},
        ("remove", "BOMB"),
        {
            "lc": 1,
            "type": "constructor",
            "id": ["langchain", "schema", "messages", "HumanMessage"],
            "kwargs": {"content": "hi"},
            "role": "user",
            "content": "BOMB",
        },
    ],
    ids=["role", "type", "pair", "wire"],
)
def test_a_message_that_only_langchain_reads_is_refused(item: Any) -> None:
    for value in ([item], [HumanMessage("hi"), item], {"messages": [item]}):
        with pytest.raises(InputError, match="only LangChain"):
            read_input(value)


async def test_a_stream_of_a_function_holds_files() -> None:
    def say(_: Any) -> Any:
        yield from turn(FILES["image"])

    chain = safe(RunnableGenerator(say), output_type=AIMessage)
    assert not holds_file(list(chain.stream("hi")))
