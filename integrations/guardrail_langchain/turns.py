"""Which user turns are new, and what becomes of those that were judged.

LangChain's ``SummarizationMiddleware`` puts a summary that a model wrote in place of old turns, as a user's message.
It is judged by the input rail like any, for its mark can be set by whoever sends messages; but on its own, and where it
does not pass, it is taken out and the run goes on: the user did not say it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    ToolMessage,
)

from guardrail_plugin.flow import Blocked, Edited, Failed, Outcome
from guardrail_plugin.runnables import InputStage, is_name, latest_turn, user_turns

WITHHELD = "[This message was withheld by a safety check.]"
"""Stands where a blocked user message stood, so that no later model call reads it."""

SUMMARY_WITHHELD = "[A summary of what was said before was withheld by a safety check.]"

Output: TypeAlias = ToolMessage | FunctionMessage

_OUTPUTS = "tool:"
"""Begins a tool output's fingerprint; alone: the outputs of this thread have been looked at."""

_SUMMARY = {"lc_source": "summarization"}
"""How LangChain marks a summary."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One user turn, or one summary: the messages before its end, and which of them are the user's."""

    stop: int
    users: tuple[int, ...]


def new_turns(messages: Sequence[BaseMessage], judged: Sequence[str]) -> tuple[list[Turn], list[Turn]]:
    """Return the user turns that have not been judged, oldest first, and the summaries.

    The first time it is the latest turn alone: what stands before it is the caller's history, and informs the
    verdict. Later it is every turn with a message that was not there, or that was changed under its id.

    Args:
        judged: fingerprints, as ``noted`` returns them.
    """
    judged = [known for known in judged if not known.startswith(_OUTPUTS)]
    turns = [Turn(stop, tuple(users)) for stop, users in user_turns(_as_heard(messages))][::-1]
    summaries = [Turn(index + 1, (index,)) for index, message in enumerate(messages) if _is_summary(message)]
    known = set(judged)
    # A mark must not make history of what stands before it in the same turn.
    first = 0 if judged else latest_turn(messages)[0]

    def new(turn: Turn) -> bool:
        return turn.stop > first and any(_print(messages[index]) not in known for index in turn.users)

    return [turn for turn in turns if new(turn)], [turn for turn in summaries if new(turn)]


def heard(messages: Sequence[BaseMessage], turn: Turn) -> list[BaseMessage]:
    """Return the conversation up to a turn's end, with summaries as the model's words, which they are."""
    return _as_heard(messages[: turn.stop])


def _as_heard(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    return [AIMessage(message.content) if _is_summary(message) else message for message in messages]


def _is_summary(message: BaseMessage) -> bool:
    return isinstance(message, HumanMessage) and _SUMMARY.items() <= message.additional_kwargs.items()


def noted(
    before: Sequence[str], *, turns: Sequence[BaseMessage] | None, outputs: Sequence[BaseMessage] | None
) -> list[str]:
    """Return the fingerprints of what has been judged; nothing can be read from them.

    Args:
        before: those that were known.
        turns: the conversation whose user messages have been judged; ``None``: they were not looked at.
        outputs: the conversation whose tool outputs have been judged; ``None``: they were not looked at.
    """
    users = [known for known in before if not known.startswith(_OUTPUTS)]
    tools = [known for known in before if known.startswith(_OUTPUTS)]
    if turns is not None:
        users = [_print(one) for one in turns if one.type not in ("ai", "system", "tool", "function")]
    if outputs is not None:
        tools = [_OUTPUTS, *(_output_print(one) for one in outputs if isinstance(one, Output))]
    return [*users, *dict.fromkeys(tools)]


def _print(message: BaseMessage) -> str:
    # Some providers send the other name where there is none.
    name = message.name or message.additional_kwargs.get("name")
    told = (message.id, message.type, name, message.content)
    return hashlib.sha256(repr(told).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _output_print(message: Output) -> str:
    return f"{_OUTPUTS}{_print(message)}"


def written(
    messages: Sequence[BaseMessage], turns: Sequence[Turn], outcomes: Sequence[Outcome], *, withheld: str = WITHHELD
) -> list[BaseMessage]:
    """Return the messages with which judged turns are replaced, by their ids; none where all goes on as it is.

    Args:
        withheld: what stands where a blocked message stood.

    Raises:
        GuardrailError: an outcome is ``Failed``.
    """
    out: list[BaseMessage] = []
    for turn, outcome in zip(turns, outcomes, strict=True):
        if isinstance(outcome, Failed):
            raise outcome.error
        if isinstance(outcome, Blocked):
            out += [_with_text(messages[index], withheld) for index in turn.users]
        elif isinstance(outcome, Edited):
            *others, last = turn.users
            out += [RemoveMessage(id=messages[index].id or "") for index in others]
            out.append(_with_text(messages[last], outcome.text))
    return out


def answer(stage: InputStage, outcomes: Sequence[Outcome]) -> AIMessage | None:
    """Return the safeguard response, if a turn was blocked."""
    blocked = next((outcome for outcome in reversed(outcomes) if isinstance(outcome, Blocked)), None)
    said = stage.instead(blocked) if blocked is not None else None
    return said if isinstance(said, AIMessage) else None


def brought_outputs(messages: Sequence[BaseMessage], judged: Sequence[str]) -> list[Output]:
    """Return tool outputs that the caller brought, as a run begins.

    The first time those after the model's last answer; later all that were not there, or were changed under their ids.
    """
    if not judged:
        return _after_the_answer(messages)
    known = set(judged)
    return [one for one in messages if isinstance(one, Output) and _output_print(one) not in known]


def added_outputs(messages: Sequence[BaseMessage], judged: Sequence[str], own: Container[object]) -> list[Output]:
    """Return tool outputs that were added to a run, and did not come through the rails of its tools.

    Args:
        judged: fingerprints, as ``noted`` returns them.
        own: what did.
    """
    known = set(judged)
    outputs = [one for one in messages if isinstance(one, Output) and _output_print(one) not in known]
    return [one for one in outputs if one not in own]


def _after_the_answer(messages: Sequence[BaseMessage]) -> list[Output]:
    found: list[Output] = []
    for message in reversed(messages):
        if isinstance(message, AIMessage):
            break
        if isinstance(message, Output):
            found.insert(0, message)
    return found


def _with_text(message: BaseMessage, text: str) -> BaseMessage:
    kept = dict(_SUMMARY) if _is_summary(message) else {}
    name = message.name if is_name(message.name or "") else None
    return message.model_copy(update={"content": text, "name": name, "additional_kwargs": kept})


def after(messages: Sequence[BaseMessage], changes: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Return the messages as they are once the changes are applied."""
    by_id: dict[str | None, Any] = {change.id: change for change in changes}
    there = {message.id for message in messages}
    kept = [by_id.get(message.id, message) for message in messages]
    kept += [change for change in changes if change.id not in there]
    return [message for message in kept if not isinstance(message, RemoveMessage)]
