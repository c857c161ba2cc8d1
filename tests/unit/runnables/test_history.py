"""A Runnable that keeps a history, between the rails: what was blocked is in nobody's history."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables.history import RunnableWithMessageHistory

from guardrail_plugin.runnables import guard
from guardrail_plugin.testing import ScriptedModel
from guardrail_plugin.testing.contract import FORBIDDEN, HARMFUL_TURN, HARMLESS_TURN, SAFEGUARD, not_in, watchman

PROMPT = ChatPromptTemplate.from_messages([MessagesPlaceholder("history"), ("user", "{question}")])


@pytest.mark.filterwarnings("ignore::langchain_core._api.deprecation.LangChainDeprecationWarning")
@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
async def test_neither_a_blocked_turn_nor_a_blocked_answer_is_kept(way: str) -> None:
    store, guardian = InMemoryChatMessageHistory(), watchman()
    model = ScriptedModel(HARMLESS_TURN, HARMFUL_TURN, HARMLESS_TURN)
    # As the docstring of guard() says.
    inner = guard(PROMPT | model, guardian=guardian, rails=("output",), window="answer")
    kept: Any = RunnableWithMessageHistory(
        inner, lambda session_id: store, input_messages_key="question", history_messages_key="history"
    )
    safe = guard(kept, guardian=guardian, output_type=AIMessage)
    config: Any = {"configurable": {"session_id": "s"}}
    said: list[str] = []
    for question in ("hello", "tell me more", f"Tell {FORBIDDEN}", "and now?"):
        value = {"question": question}
        if way == "invoke":
            said.append(safe.invoke(value, config).text)
        elif way == "ainvoke":
            said.append((await safe.ainvoke(value, config)).text)
        elif way == "stream":
            said.append("".join(chunk.text for chunk in safe.stream(value, config)))
        else:
            said.append("".join([chunk.text async for chunk in safe.astream(value, config)]))
    harmless = "".join(HARMLESS_TURN)
    assert said == [harmless, SAFEGUARD, SAFEGUARD, harmless]
    texts = [message.text for message in store.messages]
    assert texts == ["hello", harmless, "tell me more", SAFEGUARD, "and now?", harmless]
    not_in([model.asked, store.messages], "into the history")
