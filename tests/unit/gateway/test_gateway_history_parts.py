"""How a conversation is read beside its latest turn."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail_gateway import GatewaySettings
from guardrail_gateway.history import read_history
from guardrail_gateway.reading import read_question
from guardrail_gateway.steps import withheld_message
from guardrail_plugin import Check, InputError
from guardrail_plugin.runnables.views import Turn as Judged

Turn = dict[str, Any]
turns = st.lists(
    st.builds(
        lambda role, text: {"role": role, "content": text, "tool_call_id": "c"},
        st.sampled_from(["user", "assistant", "system", "tool"]),
        st.sampled_from(["", " ", "a", "b c", "d"]),
    ),
    max_size=14,
)


@settings(max_examples=200, deadline=None)
@given(turns, st.integers(min_value=0, max_value=4))
def test_an_earlier_turn_is_judged_as_it_was_when_it_was_new(messages: list[Turn], context: int) -> None:
    told = GatewaySettings(context_turns=context)
    whole = [*messages, {"role": "assistant", "content": "ok"}, {"role": "user", "content": "last"}]
    history = read_history(whole, told)
    for turn in history.earlier:
        first_reply = next(i for i in range(turn.messages[0], len(whole)) if whole[i]["role"] == "assistant")
        assert read_question(whole[:first_reply], context_turns=context) == turn.turn


@settings(max_examples=200, deadline=None)
@given(turns)
def test_all_that_a_client_can_make_up_is_judged(messages: list[Turn]) -> None:
    history, question = read_history(messages, GatewaySettings()), read_question(messages, context_turns=6)
    judged = "\n".join(
        check.text
        for check in (
            *([] if isinstance(question, InputError) else [question.subject]),
            *history.beside,
            *(turn.subject for turn in history.system),
            *(old.turn.subject for old in history.earlier),
            *(told.check for told in history.tool_outputs.values()),
            *(check for step in history.steps if isinstance(step.subject, tuple) for check in step.subject),
        )
        if isinstance(check, Check)
    )
    users = [index for index, turn in enumerate(messages) if turn["role"] == "user"]
    for index, turn in enumerate(messages):
        begun = turn["role"] == "assistant" and users and index > users[-1]
        if turn["role"] in ("user", "system") or begun:
            assert turn["content"].strip() in judged


@pytest.mark.parametrize(
    "evil",
    [
        ["assistant", "EVIL"],
        {"type": "ai", "content": "EVIL"},
        {"type": "ai", "content": "", "tool_calls": [{"id": "1", "name": "f", "args": {"q": "EVIL"}}]},
        {"role": "assistant", "type": "human", "content": "EVIL"},
        {"role": "assistant", "content": "x", "tool_calls": {"a": "EVIL"}},
        {"role": "assistant", "content": "x", "tool_calls": ["EVIL"]},
        {"role": "assistant", "content": "", "anything": [{"deep": ["EVIL"]}]},
    ],
)
@pytest.mark.parametrize("after", [[], [{"role": "tool", "tool_call_id": "1", "content": "ok"}]])
def test_what_is_said_in_the_models_name_is_judged_in_any_form(evil: object, after: list[Turn]) -> None:
    history = read_history([{"role": "user", "content": "hi"}, evil, *after], GatewaySettings())
    steps = [check for step in history.steps if isinstance(step.subject, tuple) for check in step.subject]
    assert "EVIL" in "\n".join(check.text for check in (*history.beside, *steps))
    assert not (after and history.beside)
    assert "EVIL" not in str(withheld_message(evil, "withheld"))


def test_a_long_question_is_shortened_beside_each_step() -> None:
    loop = [{"role": "assistant", "content": "Step."}, {"role": "tool", "tool_call_id": "1", "content": "ok"}]
    history = read_history([{"role": "user", "content": "a" * 50_000 + "b" * 50_000}, *loop], GatewaySettings())
    [step] = history.steps
    assert isinstance(step.subject, tuple)
    assert step.subject[0].query == "a" * 2000 + "\n" + "b" * 2000


def test_nobody_speaks_but_the_system() -> None:
    messages = [{"role": "system", "content": "Be kind."}]
    assert read_history(messages, GatewaySettings()).system == ()
    assert read_question(messages, context_turns=6) == Judged(Check("Be kind."))
