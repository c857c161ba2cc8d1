"""What a request holds beside the latest turn. A client writes all of it, and can write what never happened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from guardrail_gateway.bodies import as_object
from guardrail_gateway.problems import Problem
from guardrail_gateway.reading import SAID, ToolOutput, read_tool_output, readable, text_beside
from guardrail_gateway.settings import GatewayRail, GatewaySettings
from guardrail_gateway.steps import Step, loop_end, read_steps, text_of, unread_in
from guardrail_plugin import Check, InputError, Message
from guardrail_plugin.flow import Uncheckable
from guardrail_plugin.runnables.answers import Asked
from guardrail_plugin.runnables.content import read_content
from guardrail_plugin.runnables.views import Turn, read_messages

_QUERY_END = 2000
"""Characters."""


@dataclass(frozen=True, slots=True)
class EarlierTurn:
    """A user turn before the latest one, as it was judged when it was the latest.

    Attributes:
        messages: where it stands, and the texts with which it was answered: they go with it if it is withheld.
    """

    turn: Turn
    messages: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What of a request is judged beside its latest turn.

    Attributes:
        beside: what is asked with it: the beginning of the answer, put into the model's mouth, and names of speakers.
            Images and files in that beginning, too.
        system: system and developer messages, each on its own.
        earlier: earlier user turns; earlier answers with images or files, which no rail can read.
        steps: what the model said between uses of tools since the latest turn.
        tool_outputs: by message, what tools returned before the model last spoke.
    """

    beside: tuple[Check | Uncheckable, ...] = ()
    system: tuple[Turn, ...] = ()
    earlier: tuple[EarlierTurn, ...] = ()
    steps: tuple[Step, ...] = ()
    tool_outputs: Mapping[int, ToolOutput] = field(default_factory=dict)

    def under(self, rails: Sequence[GatewayRail]) -> History:
        """Return what these rails judge of it."""
        judged = self if "input" in rails else History(tool_outputs=self.tool_outputs)
        return judged if "tool_output" in rails else replace(judged, tool_outputs={})


NOTHING = History()


def read_history(messages: Sequence[object], settings: GatewaySettings, *, instructions: str = "") -> History:
    """Read a conversation beside its latest turn.

    Args:
        instructions: a system message that stands elsewhere in the request.

    Raises:
        Problem: 422, it holds something that is no message.
    """
    try:
        said = read_messages(readable(messages))
    except InputError as error:
        raise Problem.of(error) from None
    roles = [message.role for message in said]
    turns = settings.context_turns
    sealed = {i: _sealed(messages[i]) for i, role in enumerate(roles) if role in ("user", "system")}
    system = [_turn(said[i].text, sealed[i]) for i, role in enumerate(roles) if role == "system"]
    system = [_turn(instructions), *system] if "user" in roles else [_turn(instructions)]
    if settings.trust_system:
        system = []
    beside: list[Check | Uncheckable] = [*_beside(messages, roles, trusted=settings.trust_system)]
    # Without a user turn all that is there is judged as one, and what the model is made to say, beside its text, too.
    stop = len(roles) - roles[::-1].index("user") if "user" in roles else len(roles)
    start = stop if "user" in roles else 0
    end = loop_end(messages, said, start)
    begun = read_steps(messages, said, span=range(end, len(said)))
    if text := text_of(begun):
        beside.append(Check(text, rail="input", context=_context(said[:stop], turns)))
    beside += [step.unread for step in begun if step.unread is not None]
    old: dict[int, ToolOutput] = {}
    shown: list[EarlierTurn] = []
    if settings.history == "all":
        spoke = len(roles) - roles[::-1].index("assistant") if "assistant" in roles else 0
        old = {i: read_tool_output(as_object(messages[i])) for i in range(spoke) if roles[i] == "tool"}
        answers = {i: unread_in(messages[i]) for i in range(stop) if roles[i] == "assistant"}
        shown = [EarlierTurn(Turn(unread), (i,)) for i, unread in answers.items() if unread is not None]
    earlier = _earlier(said[:stop], sealed, turns) if settings.history == "all" and "user" in roles else ()
    return History(
        beside=tuple(beside),
        system=tuple(turn for turn in system if turn is not None),
        earlier=(*earlier, *shown),
        steps=read_steps(messages, said, span=range(start, end), asked=_asked(said[:stop])),
        tool_outputs=old,
    )


def _sealed(message: object) -> tuple[str, ...]:
    return read_content(as_object(message).get("content")).sealed


def _turn(text: str, sealed: Iterable[str] = (), context: tuple[Message, ...] = ()) -> Turn | None:
    """Return what is judged of some text and the images and files beside it; ``None``: there is neither."""
    kinds = ", ".join(dict.fromkeys(sealed))
    unread = (
        Uncheckable(f"a message holds {kinds}, which no rail can read", beside=bool(text.strip())) if kinds else None
    )
    if not text.strip():
        return None if unread is None else Turn(unread)
    return Turn(Check(text, rail="input", context=context), unread)


def _earlier(said: Sequence[Message], sealed: Mapping[int, tuple[str, ...]], turns: int) -> tuple[EarlierTurn, ...]:
    """Return all turns but the last: each is what users said between two messages of the model."""
    found: list[tuple[Turn, list[int]]] = []
    spoken: list[Message] = []
    turn: list[int] = []
    before: tuple[Message, ...] = ()
    for index, message in enumerate(said):
        if message.role == "assistant":
            text = "\n".join(said[i].text for i in turn if said[i].text)
            asked = _turn(text, (kind for i in turn for kind in sealed[i]), before)
            if asked is not None:
                found.append((asked, turn))
            turn = []
            # What says nothing may order something.
            if found:
                found[-1][1].append(index)
            spoken += [message] if message.text.strip() else []
            before = tuple(spoken[-turns:]) if turns else ()
        elif message.role == "user" and (message.text or sealed[index]):
            turn.append(index)
            spoken += [message] if message.text.strip() else []
    return tuple(EarlierTurn(asked, tuple(messages)) for asked, messages in found)


def _context(said: Sequence[Message], turns: int) -> tuple[Message, ...]:
    spoken = [message for message in said if message.role in ("user", "assistant") and message.text.strip()]
    return tuple(spoken[-turns:]) if turns else ()


def _asked(said: Sequence[Message]) -> Asked:
    """Return the latest turn as what the model's steps answer. It stays the same while tools are used."""
    start = len(said)
    while start > 0 and said[start - 1].role != "assistant":
        start -= 1
    query = "\n".join(message.text for message in said[start:] if message.role == "user" and message.text)
    # Guardians read a query's ends; read anew with every step, a long one would cost its square.
    return Asked(query if len(query) <= 2 * _QUERY_END else f"{query[:_QUERY_END]}\n{query[-_QUERY_END:]}")


def _beside(messages: Sequence[object], roles: Sequence[str], *, trusted: bool) -> list[Check]:
    """Return what messages say beside their content: names of speakers, and keys that a server's template may show."""
    whose = ("user",) if trusted else ("user", "system")
    given = [as_object(message) for message, role in zip(messages, roles, strict=True) if role in whose]
    names = [message.get("name") for message in given]
    try:
        others = [text for message in given for text in text_beside(message, SAID)]
    except InputError as error:
        raise Problem.of(error) from None
    told = (dict.fromkeys(name for name in names if isinstance(name, str) and name.strip()), dict.fromkeys(others))
    return [Check("\n".join(texts), rail="input") for texts in told if texts]
