"""OpenAI's Responses API: from the events of a streamed response to pieces of an answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from guardrail_gateway.bodies import JsonObject, as_object
from guardrail_gateway.reading import unknown_text
from guardrail_gateway.responses_reading import ECHOED, whole_answer, without_picture
from guardrail_plugin import Check
from guardrail_plugin.flow import Part, Uncheckable
from guardrail_plugin.runnables.answer_files import beside_text, files_in
from guardrail_plugin.runnables.blocks import as_json, call_checks, part_of
from guardrail_plugin.runnables.content import shown_in_data

LAST = frozenset({"response.completed", "response.incomplete", "response.failed"})

_OPENING = frozenset(
    {"response.created", "response.in_progress", "response.queued", "response.output_item.added",
     "response.content_part.added", "response.reasoning_summary_part.added"}
)  # fmt: skip
"""Events that tell of what is to come; their items are still empty. Any that is not is judged like the others."""

_ANSWER_DELTAS = frozenset({"response.output_text.delta", "response.refusal.delta"})
_REASONING_DELTAS = frozenset({"response.reasoning_summary_text.delta", "response.reasoning_text.delta"})

_NO_TEXT = frozenset(
    {
        "type", "id", "item_id", "response_id", "call_id", "object", "role", "status", "model", "logprobs",
        "obfuscation", "encrypted_content", "partial_image_b64", "phase",
    }
)  # fmt: skip
"""Keys of events in which no reader sees text: names, padding, encoded bytes, and the deltas' own tokens again."""

_MAX_DEPTH = 32


class EventReader:
    """Reads the events of one streamed response.

    Deltas are text as it grows. Events that repeat it, or hold none, are judged with it. Every other one waits for the
    end, when the answer as a whole has been judged, and with it whatever they hold that the answer does not.

    Attributes:
        response: the response as its first events told it, without output.
    """

    def __init__(self) -> None:
        self.response: JsonObject = {}
        self._said: list[str] = []
        self._reasoned: list[str] = []
        self._last: Mapping[str, object] = {}
        self._items: list[object] = []
        self._pieces: dict[tuple[str, ...], str] = {}
        self._beside: list[str] = []
        self._unread: dict[str, None] = {}

    @property
    def text(self) -> str:
        """What has been read of the answer so far."""
        return "".join(self._said)

    def read(self, event: JsonObject) -> Part:
        """Return what an event adds."""
        kind, delta = str(event.get("type")), event.get("delta")
        if kind in _ANSWER_DELTAS and isinstance(delta, str):
            said = "".join(_strings(event))
            self._said.append(said)
            return Part(said)
        if kind in _REASONING_DELTAS and isinstance(delta, str):
            thought = "".join(_strings(event))
            self._reasoned.append(thought)
            return Part(reasoning=thought)
        if kind in _OPENING and _is_empty(event):
            response = event.get("response")
            if isinstance(response, dict):
                self.response = {**response, "output": []}
            return Part()
        self._hold(event)
        return Part(acts=not self._is_known(event))

    def _is_known(self, event: JsonObject) -> bool:
        """Return whether an event holds nothing but text that has been read as it grew."""
        if "delta" in event:
            return False  # a piece, which makes a word only with the next
        kind = as_object(event.get("item")).get("type", "")
        acts = not isinstance(kind, str) or kind.endswith("_call")
        if acts or event.get("type") in LAST or event.get("partial_image_b64") or shown_in_data(event):
            return False
        told = _bare("".join(_strings(_without_echo(event))))
        return not told or told in _bare(self.text) or told in _bare("".join(self._reasoned))

    def _hold(self, event: JsonObject) -> None:
        kind, delta = str(event.get("type")), event.get("delta")
        beside = {key: value for key, value in event.items() if key not in ("item", "response")}
        self._unread.update(dict.fromkeys(shown_in_data(beside)))
        if event.get("partial_image_b64"):
            self._unread["image"] = None
        if kind in LAST:
            self._last = as_object(event.get("response"))
        elif kind == "response.output_item.done":
            self._items.append(event.get("item"))
        elif isinstance(delta, str):
            # A word may come in two pieces, so they are judged together.
            place = (kind, str(event.get("item_id")), str(event.get("output_index")))
            self._pieces[place] = self._pieces.get(place, "") + "".join(_strings(event))
            return
        self._beside.extend(_strings(_without_echo(event)))

    def rest(self) -> tuple[Check, ...]:
        """Return the checks of the whole output: its texts, its reasoning, its calls, and what was told beside it."""
        output = self._last.get("output")
        final = list(output) if isinstance(output, list) else []
        final += [item for item in self._items if item not in final]
        message = whole_answer({**self._last, "output": final})
        self._unread.update(dict.fromkeys(files_in(message)))
        part = part_of(message)
        checks = [Check(text, rail="output") for text in (part.answer, part.reasoning) if text.strip()]
        checks += call_checks(message) if part.acts else ()
        judged = _bare("\n".join([*(check.text for check in checks), self.text, "".join(self._reasoned)]))
        others = dict.fromkeys([*self._pieces.values(), *self._beside])
        beside = "\n".join(text for text in others if _bare(text) not in judged)
        return (*checks, Check(beside, rail="output")) if beside else tuple(checks)

    def nothing(self) -> Uncheckable | None:
        """Tell that there was something that no rail can read; asked after ``rest``."""
        return beside_text(self._unread)


def _is_empty(event: Mapping[str, object]) -> bool:
    """Return whether an opening event holds no answer yet."""
    return not any(text.strip() for text in _strings(_without_echo(event)))


def _without_echo(event: Mapping[str, object]) -> JsonObject:
    told = {**event, "item": without_picture(event["item"])} if "item" in event else dict(event)
    response = event.get("response")
    if not isinstance(response, dict):
        return told
    output = response.get("output")
    shown = [without_picture(item) for item in output] if isinstance(output, list) else output
    return {**told, "response": {**unknown_text(response, ECHOED), "output": shown}}


def _strings(value: object, depth: int = 0) -> Iterator[str]:
    """Yield the strings in a value that somebody may read."""
    if isinstance(value, str):
        yield value
    elif depth > _MAX_DEPTH:
        yield as_json(value)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in _NO_TEXT:
                yield from _strings(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner, depth + 1)


def _bare(text: str) -> str:
    """Return a text without white space: JSON is written in more than one way."""
    return "".join(text.split())
