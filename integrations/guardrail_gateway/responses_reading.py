"""OpenAI's Responses API: from its items to what is judged, and from its events to pieces of an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk

from guardrail_gateway.bodies import JsonObject, as_object
from guardrail_gateway.problems import bad_request
from guardrail_plugin import Check
from guardrail_plugin.flow import Part, Uncheckable
from guardrail_plugin.runnables.blocks import call_checks, part_of
from guardrail_plugin.runnables.content import text_in

_CALLS = "_call"
_OUTPUTS = "_call_output"
_OPENING = frozenset(
    {"response.created", "response.in_progress", "response.queued", "response.output_item.added",
     "response.content_part.added", "response.reasoning_summary_part.added"}
)  # fmt: skip
"""Events that tell of what is to come; their items are still empty. Any that is not is judged like the others."""

_ANSWER_DELTAS = frozenset({"response.output_text.delta", "response.refusal.delta"})
_REASONING_DELTAS = frozenset({"response.reasoning_summary_text.delta", "response.reasoning_text.delta"})
LAST = frozenset({"response.completed", "response.incomplete", "response.failed"})


def as_messages(body: Mapping[str, object]) -> list[object]:
    """Return the conversation that a request holds, as chat messages.

    Raises:
        Problem: ``input`` is neither text nor a list of items.
    """
    given = body.get("input")
    # A stored prompt's variables are the user's words as much as the input is.
    variables = as_object(as_object(body.get("prompt")).get("variables"))
    filled = [{"role": "user", "content": text_in(list(variables.values()))}] if variables else []
    if isinstance(given, str):
        return [{"role": "user", "content": given}, *filled]
    if not (isinstance(given, list) and given) and not (given is None and filled):
        raise bad_request("input must be text, or a list of items.", param="input")
    return [*(_as_message(item) for item in given or ()), *filled]


def _as_message(item: object) -> object:
    told = as_object(item)
    kind = told.get("type", "message")
    if kind == "message":
        return {"role": told.get("role", "user"), "content": text_in(told.get("content"))}
    if isinstance(kind, str) and kind.endswith(_OUTPUTS):
        return {"role": "tool", "tool_call_id": str(told.get("call_id", "")), "content": _text(told.get("output"))}
    # Reasoning, calls and the like were the model's.
    return {"role": "assistant", "content": ""}


def tool_outputs(body: Mapping[str, object]) -> dict[int, Check]:
    """Return, by index, what tools returned since the model last spoke."""
    given = body.get("input")
    messages = as_messages(body) if isinstance(given, list) else []
    found: dict[int, Check] = {}
    for index in range(len(messages) - 1, -1, -1):
        message = as_object(messages[index])
        if message.get("role") == "assistant":
            break
        if message.get("role") == "tool":
            found[index] = Check(str(message["content"]), rail="tool_output")
    return dict(sorted(found.items()))


def _text(output: object) -> str:
    return output if isinstance(output, str) else text_in(output) or json.dumps(output)


def whole_answer(output: object) -> AIMessageChunk:
    """Return a response's ``output`` as what the output rail judges: texts, reasoning, each call."""
    blocks: list[str | dict[str, object]] = []
    calls = []
    for position, item in enumerate(output if isinstance(output, list) else []):
        told = as_object(item)
        kind = str(told.get("type", ""))
        if kind == "message" or kind == "reasoning":
            blocks.append(dict(told) if kind == "reasoning" else {"type": "message", "content": told.get("content")})
        elif kind.endswith(_CALLS):
            rest = {key: value for key, value in told.items() if key not in ("id", "type", "status", "call_id", "name")}
            arguments = rest.pop("arguments", None)
            text = arguments if isinstance(arguments, str) else ""
            text += json.dumps(rest) if rest else ""
            calls.append(tool_call_chunk(name=str(told.get("name", kind)), args=text, id=None, index=position))
        else:
            blocks.append(dict(told))
    return AIMessageChunk(content=blocks, tool_call_chunks=calls)


class EventReader:
    """Reads the events of one streamed response.

    Deltas are text as it grows. Every other event that holds text repeats it: these wait for the end, when the answer
    as a whole has been judged.

    Attributes:
        response: the response as its first events told it, without output.
        released: output items that the client has heard of.
    """

    def __init__(self) -> None:
        self.response: JsonObject = {}
        self.sequence = 0
        self._said: list[str] = []
        self._output: list[object] = []
        self._final = False

    @property
    def text(self) -> str:
        """What has been read of the answer so far."""
        return "".join(self._said)

    def read(self, event: JsonObject) -> Part:
        """Return what an event adds."""
        kind, number = event.get("type"), event.get("sequence_number")
        self.sequence = max(self.sequence, number if isinstance(number, int) else 0)
        delta = event.get("delta")
        if kind in _ANSWER_DELTAS and isinstance(delta, str):
            self._said.append(delta)
            return Part(delta)
        if kind in _REASONING_DELTAS and isinstance(delta, str):
            return Part(reasoning=delta)
        if kind in _OPENING and _is_empty(event):
            response = event.get("response")
            if isinstance(response, dict):
                self.response = {**response, "output": []}
            return Part()
        if kind == "response.output_item.done":
            self._output.append(event.get("item"))
        elif kind in LAST:
            output = as_object(event.get("response")).get("output")
            self._final = isinstance(output, list) and bool(output)
            self._output = output if isinstance(output, list) and output else self._output
        return Part(acts=True)

    def rest(self) -> tuple[Check, ...]:
        """Return the checks of the whole output: its texts, its reasoning and its calls."""
        message = whole_answer(self._output)
        part = part_of(message)
        checks = [Check(text, rail="output") for text in (part.answer, part.reasoning) if text.strip()]
        return (*checks, *(call_checks(message) if part.acts else ()))

    def nothing(self) -> Uncheckable | None:
        """Tell that there was no text."""
        return None


def _is_empty(event: Mapping[str, object]) -> bool:
    """Return whether an opening event holds no answer yet."""
    for key in ("item", "part", "response"):
        told = as_object(event.get(key))
        keys: Sequence[str] = (
            ("output",) if key == "response" else ("text", "content", "summary", "arguments", "output")
        )
        if any(told.get(name) not in (None, "", []) for name in keys):
            return False
    return True
