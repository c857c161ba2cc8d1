"""What a request says in the model's name after the latest turn: steps of a tool loop, and an answer begun."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from guardrail_gateway.bodies import JsonObject, as_object
from guardrail_gateway.problems import Problem
from guardrail_gateway.reading import MODEL, as_message, is_word
from guardrail_plugin import Check, InputError, Message
from guardrail_plugin.flow import Uncheckable
from guardrail_plugin.runnables.answer_files import beside_text, files_in
from guardrail_plugin.runnables.answers import Answer, Asked, read_answer

_CALLS = ("tool_calls", "function_call")
_KEPT = ("role", "type", "name", "id", "tool_call_id")
NOTHING_ASKED = Asked()
_EMPTY: Mapping[str, object] = {"arguments": "{}", "input": ""}


@dataclass(frozen=True, slots=True)
class Step:
    """A message of the model between two uses of tools, judged as the answer that it was.

    Attributes:
        message: where it stands.
        unread: what in it no rail can read.
    """

    message: int
    subject: tuple[Check, ...] | Uncheckable
    unread: Uncheckable | None = None


def loop_end(messages: Sequence[object], said: Sequence[Message], start: int) -> int:
    """Return where the last use of a tool from ``start`` on ends: what follows is an answer, put into its mouth."""
    for index in range(len(said) - 1, start - 1, -1):
        calls = said[index].role == "assistant" and any(as_object(messages[index]).get(key) for key in _CALLS)
        if calls or said[index].role == "tool":
            return index + 1
    return start


def read_steps(
    messages: Sequence[object], said: Sequence[Message], *, span: range, asked: Asked = NOTHING_ASKED
) -> tuple[Step, ...]:
    """Read what the model said within a span, message by message.

    Args:
        said: the messages, as the rails read them.

    Raises:
        Problem: 422, one is nested without end.
    """
    read = [(i, _read(messages[i], said[i], asked)) for i in span if said[i].role == "assistant"]
    return tuple(Step(i, told.subject, told.beside) for i, told in read if told.subject or told.beside)


def unread_in(message: object) -> Uncheckable | None:
    """Return what no rail can read in what a request says in the model's name.

    Raises:
        Problem: 422, it is nested without end.
    """
    said = as_message(as_object(message), {})
    try:
        return None if isinstance(said, str) else beside_text(files_in(said))
    except InputError as error:
        raise Problem.of(error) from None


def text_of(steps: Iterable[Step]) -> str:
    """Return all that these tell the model that it has said, and thought."""
    told = [step.subject for step in steps if isinstance(step.subject, tuple)]
    return "\n".join(check.text for checks in told for check in checks).strip()


def withheld_message(message: object, text: str) -> JsonObject:
    """Return a message with a text in place of all that it says. Its tool calls stay, without their arguments."""
    told = as_object(message)
    kept = {key: value for key, value in told.items() if key in _KEPT and is_word(value)}
    if told.get("role") == "function":
        kept.setdefault("name", "function")
    if told.get("role", told.get("type")) in MODEL:
        kept = {key: value for key, value in kept.items() if key in ("role", "type", "name")}
        calls = told.get("tool_calls")
        if isinstance(calls, list) and calls:
            kept["tool_calls"] = [_emptied_call(call) for call in calls]
        if isinstance(told.get("function_call"), dict):
            kept["function_call"] = _call(told["function_call"])
    return {**kept, "content": text}


def _emptied_call(call: object) -> JsonObject:
    told = as_object(call)
    kept: JsonObject = {key: told[key] for key in ("id", "type", "index") if key in told}
    return {**kept, **{key: _call(told[key]) for key in ("function", "custom") if key in told}}


def _call(given: object) -> JsonObject:
    told = as_object(given)
    name = told["name"] if is_word(told.get("name")) else "withheld"
    return {"name": name, **{key: empty for key, empty in _EMPTY.items() if key in told}}


def _read(message: object, said: Message, asked: Asked) -> Answer:
    told = dict(as_object(message))
    if not told:
        # LangChain reads pairs of a role and a text too, and messages that name their role in ``type``.
        return Answer((asked.check(said.text),) if said.text.strip() else ())
    if is_word(told.get("type")):
        del told["type"]
    if is_word(told.get("name")):
        del told["name"]
    try:
        return read_answer(as_message(told, {}), asked, None)
    except InputError as error:
        raise Problem.of(error) from None
