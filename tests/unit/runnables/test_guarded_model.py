"""``guard_model``: a guarded model is a chat model like the one inside, and single calls can be withheld from it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, InvalidToolCall, ToolCall
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import BaseModel, PrivateAttr

from guardrail_plugin import BlockedError, ConfigError, Policy, ToolPolicy, guard, guard_tool
from guardrail_plugin.flow import Allowed, Blocked, Outcome
from guardrail_plugin.runnables import guard_model
from guardrail_plugin.runnables.blocks import client_calls
from guardrail_plugin.runnables.withheld import MARK, refusal_of, withhold
from guardrail_plugin.testing import ScriptedModel, allow_all, verdict
from guardrail_plugin.testing.contract import (
    FORBIDDEN,
    HARMFUL_TURN,
    HARMLESS_TURN,
    RUNNABLE_CONTRACT,
    SAFEGUARD,
    not_in,
    watchman,
)
from guardrail_plugin.testing.contract_agents import calling
from guardrail_plugin.testing.contract_tools import mail_tool
from guardrail_plugin.testing.exits import Listener


class WholeModel(BaseChatModel):
    """A model that cannot stream, and takes note of what is bound to it."""

    _said: AIMessage = PrivateAttr()
    _bound: list[Any] = PrivateAttr(default_factory=list)

    def __init__(self, said: AIMessage) -> None:
        super().__init__()
        self._said = said

    @property
    def _llm_type(self) -> str:
        return "whole"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        self._bound.append((list(tools), kwargs))
        return self.bind(**kwargs)

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._said)])


class StoppingModel(ScriptedModel):
    """Takes note of where it is told to stop."""

    _stops: list[Any] = PrivateAttr(default_factory=list)

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        return self.bind(tools=list(tools), **kwargs) if tools else self.bind(**kwargs)

    def _generate(self, messages: list[BaseMessage], stop: list[str] | None = None, **kwargs: Any) -> ChatResult:
        self._stops.append(stop)
        return super()._generate(messages, stop)


def wrapped(chain: Any, guardian: Any) -> Any:
    """Put the input rail before a guarded model, as an app would."""
    if not isinstance(chain, BaseChatModel):
        return guard(chain, guardian=guardian, rails=("input", "output"))
    return guard(guard_model(chain, guardian=guardian), guardian=guardian)


@pytest.mark.parametrize("name", RUNNABLE_CONTRACT)
async def test_a_guarded_model_behind_an_input_rail_keeps_the_contract(name: str) -> None:
    await RUNNABLE_CONTRACT[name](wrapped)


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
async def test_a_model_that_cannot_stream_is_guarded_on_every_path(way: str) -> None:
    call = {"name": "send", "args": {"to": "alice"}, "id": "c", "type": "tool_call"}
    for said, safe in (("fine", True), (f"write to {FORBIDDEN}", False)):
        model = guard_model(WholeModel(AIMessage(said, tool_calls=[call])), guardian=watchman())
        if way == "invoke":
            message: BaseMessage = model.invoke("hi")
        elif way == "ainvoke":
            message = await model.ainvoke("hi")
        else:
            chunks = list(model.stream("hi")) if way == "stream" else [chunk async for chunk in model.astream("hi")]
            message = chunks[0]
            for chunk in chunks[1:]:
                message = message + chunk  # type: ignore[assignment, operator]
        assert message.text == (said if safe else SAFEGUARD)
        assert [(c["name"], c["args"]) for c in message.tool_calls] == ([("send", {"to": "alice"})] if safe else [])


async def test_history_gets_the_safe_answer_alone() -> None:
    model = guard_model(ScriptedModel(HARMFUL_TURN), guardian=watchman())
    assert model.invoke("hi").text == SAFEGUARD
    assert (await model.ainvoke("hi")).text == SAFEGUARD
    streamed = [chunk.text for chunk in model.stream("hi")]
    assert "".join(streamed) == f"{HARMFUL_TURN[0]}\n\n{SAFEGUARD}"


def test_tools_and_settings_are_bound_to_the_model_inside() -> None:
    inner = WholeModel(AIMessage("fine"))
    model = guard_model(inner, guardian=allow_all()).bind_tools(["a"], tool_choice="any")
    assert inner._bound == [(["a"], {"tool_choice": "any"})]
    assert isinstance(model, BaseChatModel)
    assert model.invoke("hi").text == "fine"


def test_what_is_bound_to_the_model_inside_stays_when_tools_are_bound() -> None:
    inner = StoppingModel(HARMLESS_TURN)
    bound: Any = guard_model(inner.bind(stop=["X"]), guardian=allow_all())
    bound.bind_tools([]).invoke("hi")
    bound.bind_tools([], stop=["Y"]).invoke("hi")
    bound.bind_tools([]).bind_tools([]).invoke("hi")
    assert inner._stops == [["X"], ["Y"], ["X"]]
    with_config: Any = guard_model(inner.bind(stop=["X"]).with_config(tags=["joke"]), guardian=allow_all())
    assert with_config.bind_tools([]).inner.config == {"tags": ["joke"]}


def test_other_tools_take_the_place_of_those_that_are_bound() -> None:
    inner = StoppingModel(HARMLESS_TURN).bind_tools(["a"], tool_choice="a").bind(stop=["X"])
    model: Any = guard_model(inner, guardian=allow_all()).bind_tools(["b"])
    assert model.inner.kwargs == {"tools": ["b"], "stop": ["X"]}


def test_who_listens_while_tools_are_bound_does_not_hear_the_model_inside() -> None:
    listener = Listener()
    models: list[Any] = []
    model = guard_model(StoppingModel(HARMFUL_TURN).bind(stop=["X"]), guardian=watchman())
    RunnableLambda(lambda _: models.append(model.bind_tools([]))).invoke("hi", {"callbacks": [listener]})
    assert models[0].invoke("hi").text == SAFEGUARD
    not_in(listener.heard, "to a listener")


def test_structured_output_goes_through_the_rail() -> None:
    class Answer(BaseModel):
        """An answer."""

        text: str

    for text in ("fine", FORBIDDEN):
        call = {"name": "Answer", "args": {"text": text}, "id": "c", "type": "tool_call"}
        model = guard_model(WholeModel(AIMessage("", tool_calls=[call])), guardian=watchman())
        parsed = model.with_structured_output(Answer).invoke("hi")
        assert parsed == (Answer(text="fine") if text == "fine" else None)


def test_it_tells_traces_what_the_model_inside_is() -> None:
    model = guard_model(WholeModel(AIMessage("fine")), guardian=allow_all())
    assert model._llm_type == "whole"
    assert model._get_ls_params()["ls_provider"] == "wholemodel"
    assert "fine" not in repr(model)


def test_blocks_raise_where_the_policy_says_so() -> None:
    model = guard_model(ScriptedModel(HARMFUL_TURN), guardian=watchman(), policy=Policy(on_block="raise"))
    with pytest.raises(BlockedError):
        model.invoke("hi")
    with pytest.raises(BlockedError):
        list(model.stream("hi"))


@pytest.mark.parametrize(
    "settings", [{"guardian": None}, {"window": "word"}, {"policy": {}}, {"release": "now"}, {"model": "gpt"}]
)
def test_a_wrong_setting_is_refused(settings: dict[str, Any]) -> None:
    given = {"model": ScriptedModel(HARMLESS_TURN), "guardian": allow_all(), **settings}
    with pytest.raises(ConfigError):
        guard_model(given.pop("model"), **given)


BLOCK = Blocked("tool_call", "no", verdict(risk=1.0, hazard="S7", rail="tool_call"))
PASS = Allowed("tool_call")


def anthropic() -> AIMessage:
    blocks: list[str | dict[Any, Any]] = [
        {"type": "text", "text": "I will write."},
        {"type": "tool_use", "id": "a", "name": "send", "input": {"to": FORBIDDEN}},
        {"type": "tool_use", "id": "b", "name": "send", "input": {"to": "bob"}},
    ]
    calls = [
        {"name": "send", "args": {"to": FORBIDDEN}, "id": "a", "type": "tool_call"},
        {"name": "send", "args": {"to": "bob"}, "id": "b", "type": "tool_call"},
    ]
    return AIMessage(blocks, tool_calls=calls)


def openai_old() -> AIMessage:
    raw = [{"id": "a", "type": "function", "function": {"name": "send", "arguments": f'{{"to": "{FORBIDDEN}"}}'}}]
    calls = [
        {"name": "send", "args": {"to": FORBIDDEN}, "id": "a", "type": "tool_call"},
        {"name": "send", "args": {"to": "bob"}, "id": "b", "type": "tool_call"},
    ]
    return AIMessage("", additional_kwargs={"tool_calls": raw}, tool_calls=calls)


def streamed() -> AIMessage:
    return AIMessageChunk(
        content=[{"type": "input_json_delta", "partial_json": FORBIDDEN, "index": 1}],
        tool_call_chunks=[
            {"type": "tool_call_chunk", "name": "send", "args": f'{{"to": "{FORBIDDEN}"}}', "id": "a", "index": 0},
            {"type": "tool_call_chunk", "name": "send", "args": '{"to": "bob"}', "id": "b", "index": 1},
        ],
    )


@pytest.mark.parametrize("message", [anthropic(), openai_old(), streamed()], ids=["anthropic", "openai", "chunk"])
def test_a_withheld_call_leaves_no_trace_but_its_name(message: AIMessage) -> None:
    safe = withhold(message, [BLOCK, PASS])
    not_in(safe, "beside a withheld call")
    assert [(call["id"], call["args"]) for call in safe.tool_calls] == [("a", {MARK: "S7"}), ("b", {"to": "bob"})]
    assert withhold(message, [PASS, PASS]) is message


def test_an_unreadable_call_can_be_withheld() -> None:
    broken = {"name": "send", "args": FORBIDDEN, "id": "a", "error": None, "type": "invalid_tool_call"}
    message = AIMessage("", invalid_tool_calls=[broken])
    assert client_calls(message) == [("send", FORBIDDEN)]
    safe = withhold(message, [BLOCK])
    not_in(safe, "beside a withheld call")
    assert safe.tool_calls[0]["args"] == {MARK: "S7"}


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        ({MARK: "S7"}, "blocked by a safety check (S7)"),
        ({MARK: "blocked"}, "blocked by a safety check. "),
        ({MARK: "forbidden"}, "may not be called"),
        ({MARK: "unjudged"}, "could not be completed"),
        ({MARK: "x y\nobey"}, "blocked by a safety check. "),
        ({MARK: {"a": 1}}, "blocked by a safety check. "),
        ({MARK: "S7", "to": "bob"}, None),
        ({"to": "bob"}, None),
        ("text", None),
    ],
)
def test_a_mark_is_refused_and_nothing_in_it_is_repeated(arguments: object, refused: str | None) -> None:
    reason = refusal_of(arguments)
    assert (reason is None) if refused is None else (reason is not None and refused in reason)
    assert reason is None or "obey" not in reason


def test_a_guarded_tool_refuses_a_withheld_call_though_it_fits_no_schema() -> None:
    done: list[str] = []
    safe = guard_tool(mail_tool(done), guardian=allow_all())
    call = {"type": "tool_call", "id": "c", "name": "send_mail", "args": {MARK: "S7"}}
    message = safe.invoke(call)
    assert (message.status, done) == ("error", [])
    assert message.text == "This tool call was blocked by a safety check (S7). Do not repeat it."


async def test_with_a_tool_policy_calls_are_withheld_one_by_one() -> None:
    for tools, names in ((ToolPolicy(), ["send_mail", "send_mail"]), (None, [])):
        model = guard_model(ScriptedModel(calling(FORBIDDEN, "alice")), guardian=watchman(), tools=tools)
        for message in (model.invoke("hi"), await model.ainvoke("hi")):
            assert [call["name"] for call in message.tool_calls] == names
            not_in(message, "in a call")


def test_an_outcome_without_a_verdict_is_marked_as_what_it_is() -> None:
    cases: list[tuple[Outcome, str]] = [
        (Blocked("tool_call", "no"), "forbidden"),
        (Blocked("tool_call", "no", error=ConfigError("down")), "unjudged"),
        (Blocked("tool_call", "no", verdict(risk=1.0, rail="tool_call")), "blocked"),
    ]
    for outcome, mark in cases:
        assert withhold(anthropic(), [outcome, PASS]).tool_calls[0]["args"] == {MARK: mark}


@pytest.mark.parametrize("arguments", ["not json", '["a"', None])
def test_what_cannot_be_completed_is_streamed_as_it_came(arguments: str | None) -> None:
    call = InvalidToolCall(name="send", args=arguments, id="c", error=None)
    streamed: Any = reduce(
        add, guard_model(WholeModel(AIMessage("", invalid_tool_calls=[call])), guardian=allow_all()).stream("hi")
    )
    assert (streamed.tool_calls, streamed.invalid_tool_calls[0]["args"]) == ([], arguments or "null")


CUT_OFF = AIMessage(
    "", invalid_tool_calls=[InvalidToolCall(name="send", args='{"to": "alice", "body": "pay 100', id="c", error=None)]
)


@pytest.mark.parametrize("way", ["invoke", "stream"])
def test_a_call_that_was_cut_off_stays_unreadable(way: str) -> None:
    model = guard_model(WholeModel(CUT_OFF), guardian=allow_all())
    said = model.invoke("hi") if way == "invoke" else reduce(add, model.stream("hi"))
    assert said.tool_calls == []  # type: ignore[attr-defined]
    assert [call["name"] for call in said.invalid_tool_calls] == ["send"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("raw", [False, True])
def test_the_form_of_a_blocked_answer_is_not_filled_in(raw: bool) -> None:
    class Form(BaseModel):
        """A form."""

        answer: str = "something"

    call = ToolCall(name="Form", args={"answer": FORBIDDEN}, id="c")
    tools = ToolPolicy(allow=frozenset({"search"}))
    model = guard_model(WholeModel(AIMessage("", tool_calls=[call])), guardian=watchman(), tools=tools)
    found: Any = model.with_structured_output(Form, include_raw=raw).invoke("hi")
    assert (found["parsed"] if raw else found) is None
    fine = guard_model(WholeModel(AIMessage("", tool_calls=[call])), guardian=allow_all(), tools=tools)
    assert fine.with_structured_output(Form).invoke("hi") == Form(answer=FORBIDDEN)


@pytest.mark.parametrize("depth", [300, 3000])
def test_arguments_nested_without_end_cost_the_others_nothing(depth: int) -> None:
    deep = AIMessage("", invalid_tool_calls=[InvalidToolCall(name="n", args='{"a":' + "[" * depth, id="c", error=None)])
    chain = guard(
        RunnableLambda(lambda x: deep if x == "deep" else AIMessage("fine")),
        guardian=allow_all(),
        rails=("input", "output"),
        output_type=AIMessage,
    )
    said = chain.batch(["a", "deep", "b"], return_exceptions=True)
    assert [getattr(one, "text", None) for one in (said[0], said[2])] == ["fine", "fine"]
