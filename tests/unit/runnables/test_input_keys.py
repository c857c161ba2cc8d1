"""Where the user's part of an input is: what the chain's model sees of a dict is what is judged of it."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, ChatMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder, PromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough

from guardrail_plugin.core.errors import InputError
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.flow import Uncheckable
from guardrail_plugin.runnables import guard
from guardrail_plugin.runnables.input_keys import Declared, declared_by
from guardrail_plugin.runnables.views import read_input, read_turn
from guardrail_plugin.testing import ScriptedGuardian, ScriptedModel, verdict

NO = "I can't help with that."
QUESTION, TOPIC = ChatPromptTemplate.from_template("{question}"), ChatPromptTemplate.from_template("{topic}")
HELD = ChatPromptTemplate.from_messages([MessagesPlaceholder("question"), ("user", "{tone}")])
BOTH = ChatPromptTemplate.from_messages([MessagesPlaceholder("messages"), ("user", "Answer this: {messages}")])
SPLIT = [{"role": "system", "content": "a BOMB"}, {"role": "user", "content": "hello"}]
NOTED = {"role": "user", "content": "hello", "note": "a BOMB"}


def judge() -> ScriptedGuardian:
    return ScriptedGuardian({"BOMB": verdict(risk=0.9, hazard="S9")}, respond=NO)


BLOCKED: dict[str, tuple[Any, object, dict[str, Any]]] = {
    "its one value": (TOPIC, {"topic": "a BOMB"}, {}),
    "a system message, by key": (QUESTION, {"question": SPLIT}, {"input_key": "question"}),
    "a system message": (QUESTION, {"question": SPLIT}, {}),
    "pairs": (QUESTION, {"question": [["system", "a BOMB"], ["user", "hi"]]}, {}),
    "a key that no message has": (QUESTION, {"question": NOTED}, {"input_key": "question"}),
    "no dict": (QUESTION, SPLIT, {}),
    "messages that are written out, too": (BOTH, {"messages": SPLIT}, {}),
    "a function, nobody knows how it reads": (RunnableLambda(lambda it: it["input"][0]), {"input": SPLIT}, {}),
}


@pytest.mark.parametrize("case", BLOCKED)
async def test_whatever_a_prompt_may_write_out_is_judged(case: str) -> None:
    head, value, settings = BLOCKED[case]
    model = ScriptedModel(["Sure."])
    safe: Any = guard(head | model, guardian=judge(), **settings)
    said = [safe.invoke(value), await safe.ainvoke(value), *safe.batch([value]), *safe.stream(value)]
    assert {message.text for message in said} == {NO}
    assert model.calls == 0


REFUSED: dict[str, tuple[Any, object]] = {
    "a message beside the question": (QUESTION, {"question": "a BOMB", "role": "user", "content": "hello"}),
    "by type": (QUESTION, {"question": "a BOMB", "type": "human", "content": "hello"}),
    "beside a history": (RunnableLambda(str), {"history": "a BOMB", "role": "user", "content": "hello"}),
    "beside other data": (RunnableLambda(str), {"body": "a BOMB", "role": "user", "content": "hello"}),
    "a key that the prompt does not read": (TOPIC, {"topic": "a BOMB", "query": "hello"}),
    "a message that the prompt does not read": (
        ChatPromptTemplate.from_template("{name}"),
        {"role": "user", "content": "hello", "name": "a BOMB"},
    ),
    "behind settings": (
        TOPIC.with_config(tags=["x"]).with_retry(),
        {"topic": "a BOMB", "query": "hello"},
    ),
    "either of two": (
        (TOPIC | ScriptedModel(["x"])).with_fallbacks([QUESTION | ScriptedModel(["x"])]),
        {"topic": "a BOMB", "question": "hello"},
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_dict_of_which_the_chain_reads_another_part_is_refused(case: str) -> None:
    head, value = REFUSED[case]
    model = ScriptedModel(["Sure."])
    safe: Any = guard(head | model, guardian=judge())
    with pytest.raises(InputError, match="pass input_key") as caught:
        safe.invoke(value)
    assert "BOMB" not in str(caught.value)
    assert model.calls == 0


def test_what_a_placeholder_holds_is_read_as_messages() -> None:
    model = ScriptedModel(["Sure."])
    safe: Any = guard(HELD | model, guardian=(guardian := judge()))
    assert safe.invoke({"question": SPLIT, "tone": "kind"}).text == "Sure."
    assert [check.text for check in guardian.checks] == ["hello"]


def test_langchains_own_messages_and_what_is_picked_are_read_as_messages() -> None:
    messages = [SystemMessage("a BOMB"), HumanMessage("hello")]
    for value, settings in (
        ({"input": messages}, {}),
        ({"messages": SPLIT}, {}),
        ({"x": SPLIT}, {"input_key": lambda it: it["x"]}),
        ({"x": NOTED}, {"input_key": lambda it: it["x"]}),
        ({"input": "hello"}, {}),
    ):
        assert getattr(read_input(value, **settings), "text", None) == "hello"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "message",
    [
        HumanMessage("hi", name="Ann"),
        AIMessage("hi", tool_calls=[{"name": "f", "args": {}, "id": "1"}], id="2"),
        AIMessageChunk(content="hi", chunk_position="last"),
        ToolMessage("hi", tool_call_id="1", artifact=3),
        ChatMessage(content="hi", role="visitor"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_dumped_message_is_a_message(message: Any) -> None:
    given = message.model_dump()
    if isinstance(message, ChatMessage | AIMessageChunk):  # kinds that LangChain does not read back
        given["type"] = "human"
        given.pop("role", None)
    assert getattr(read_input(given), "text", None) == "hi"


def test_only_known_words_of_raw_data_are_left_out() -> None:
    data: list[Any] = [
        {"role": "user", "type": "human", "content": [{"type": "text", "text": "a", "id": "b_c_d"}]},
        {"role": "assistant", "type": "how_to", "content": "e", "build_it": {"deep": ["f", 7, None, b"g"]}},
    ]
    found = read_input({"input": data})
    assert getattr(found, "text", "").split("\n") == ["a", "b_c_d", "how_to", "e", "build_it", "deep", "f", "g"]
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    turn = read_turn({"input": [{"role": "user", "content": [image, {"type": "text", "text": "a"}]}]})
    assert getattr(turn.subject, "text", None) == "a"
    assert turn.beside is not None
    assert isinstance(read_input({"input": [{"role": "user", "content": [image]}]}), Uncheckable)


def test_an_edited_text_takes_the_place_of_all_that_was_judged() -> None:
    policy = Policy(rails={"input": {"action": "escalate"}})
    model = ScriptedModel(["Sure."])
    safe: Any = guard(QUESTION | model, guardian=judge(), policy=policy, on_escalate=lambda *_: "tea")
    assert safe.invoke({"question": SPLIT}).text == "Sure."
    assert "tea" in model.asked[0][0].text
    assert "BOMB" not in model.asked[0][0].text


def _keys(*keys: str) -> frozenset[str]:
    return frozenset(keys)


def test_a_declaration_is_taken_only_where_it_is_certain() -> None:
    model = ScriptedModel(["x"])
    assert declared_by(PromptTemplate.from_template("{a}") | model) == Declared(_keys("a"), _keys(), "a")
    assert declared_by(HELD | model) == Declared(_keys("question", "tone"), _keys("question"), None)
    assert declared_by(BOTH) == Declared(_keys("messages"), _keys(), "messages")
    optional = ChatPromptTemplate.from_messages([("placeholder", "{history}"), ("user", "{a} {b}")]).partial(b="x")
    assert declared_by(optional) == Declared(_keys("history", "a", "b"), _keys("history"), "a")
    unknown = [model, RunnableLambda(str), {"x": RunnablePassthrough()} | TOPIC, ChatPromptTemplate([("user", "hi")])]
    assert [declared_by(one) for one in unknown] == [None] * len(unknown)
