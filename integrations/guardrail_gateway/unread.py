"""Images and files in what a model says: no rail can read them, so ``on_uncheckable`` decides about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from guardrail_gateway.bodies import as_object
from guardrail_plugin import Check, InputError
from guardrail_plugin.flow import Allowed, Blocked, HoldBack, Outcome, Rules, Steps, Uncheckable, Window, output_rail
from guardrail_plugin.flow.holdback import Release
from guardrail_plugin.flow.rails import unjudged
from guardrail_plugin.runnables.answers import Asked
from guardrail_plugin.runnables.block_kinds import MEDIA_KINDS
from guardrail_plugin.runnables.content import read_content
from guardrail_plugin.runnables.encoded import is_payload

UNREAD_ANSWER = "I can't show this answer, because it holds an image or file that cannot be checked."

_CALLS = frozenset({"tool_calls", "function_call"})
_SEALED_THOUGHT = "other"
"""What encrypted reasoning is told as: only its provider reads it."""

_PICTURE_CALL = "image_generation_call"


def kinds_in(said: Mapping[str, object]) -> tuple[str, ...]:
    """Return the kinds of images and files in a message of a model, in its content or beside it.

    Raises:
        InputError: it is nested without end.
    """
    found: dict[str, None] = {}
    for key, value in said.items():
        if value and key not in _CALLS and not isinstance(value, str):
            block = {"type": key, **value} if key in MEDIA_KINDS and isinstance(value, dict) else value
            found.update(dict.fromkeys(read_content(block).sealed))
    found.pop(_SEALED_THOUGHT, None)
    return tuple(found)


def unread(kinds: Iterable[str]) -> Uncheckable | None:
    """Return what is to be decided about them; ``None``: there are none."""
    told = ", ".join(dict.fromkeys(kinds))
    return Uncheckable(f"the answer holds {told}, which no rail can read", beside=True) if told else None


def without_picture(item: object) -> object:
    """Return an item of a response without the image that it made, which is no text, though it is written as one."""
    told = as_object(item)
    made = told.get("result")
    if told.get("type") != _PICTURE_CALL or not isinstance(made, str) or not is_payload(made):
        return item
    return {key: value for key, value in told.items() if key != "result"}


def kinds_in_items(items: object) -> tuple[str, ...]:
    """Return the kinds of images and files in the items of a response."""
    found: list[str] = []
    for item in items if isinstance(items, list) else ():
        found += ["image"] if without_picture(item) is not item and as_object(item).get("result") else []
        found += kinds_in({"item": item})
    return tuple(dict.fromkeys(found))


def answer_rail(
    subject: Sequence[Check] | Uncheckable | InputError,
    *,
    asked: Check | None,
    beside: Uncheckable | None,
    rules: Rules,
) -> Steps[Outcome]:
    """Decide about a whole answer, and about what stands in it that no rail can read."""
    outcome = yield from output_rail(subject, asked=asked, rules=rules)
    return _with(beside, outcome, rules)


class AnswerHoldBack(HoldBack[dict[str, object]]):
    """The output rail of one stream. What no rail can read is decided about when the answer is complete."""

    def __init__(self, *, window: Window, rules: Rules, asked: Asked, release: Release) -> None:
        super().__init__(window=window, rules=rules, query=asked.query, context=asked.context, release=release)
        self._order = rules
        self._unread: Uncheckable | None = None

    def end(self, last: Sequence[Check] = (), *, nothing: Uncheckable | None = None) -> None:
        """Note that the answer is complete; ``nothing`` may also stand beside text."""
        self._unread = nothing if nothing is not None and nothing.beside else None
        super().end(last, nothing=nothing)

    def ending(self) -> Steps[Outcome]:
        """Decide how the answer ends."""
        outcome = yield from super().ending()
        return _with(self._unread, outcome, self._order)


def _with(beside: Uncheckable | None, outcome: Outcome, rules: Rules) -> Outcome:
    if beside is None or not isinstance(outcome, Allowed) or rules.on_uncheckable == "allow":
        return outcome
    refused = unjudged(InputError(beside.reason), rail="output", rules=rules)
    return replace(refused, response=UNREAD_ANSWER) if isinstance(refused, Blocked) else refused
