"""From whatever a Runnable is given to the text that is judged, and the turns before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)
from langchain_core.prompt_values import PromptValue

from guardrail_plugin.core.conversation import Check, Message, Role
from guardrail_plugin.core.errors import InputError
from guardrail_plugin.flow import Uncheckable
from guardrail_plugin.runnables.blocks import part_of
from guardrail_plugin.runnables.content import Content, kinds_in, read_content, text_in
from guardrail_plugin.runnables.input_keys import HISTORY_KEYS, Declared, InputKey, is_message, locate
from guardrail_plugin.runnables.metadata import name_in
from guardrail_plugin.runnables.raw import read_raw

_ROLES: tuple[tuple[type[BaseMessage], Role], ...] = (
    (HumanMessage, "user"),
    (AIMessage, "assistant"),
    (SystemMessage, "system"),
    (ToolMessage, "tool"),
    (FunctionMessage, "tool"),
)
_CHAT_ROLES: dict[str, Role] = {"assistant": "assistant", "ai": "assistant", "system": "system", "developer": "system"}


def read_input(
    value: object, *, input_key: InputKey | None = None, declared: Declared | None = None, context_turns: int = 6
) -> Check | Uncheckable:
    """Find the latest user turn in an input, and up to ``context_turns`` user and assistant turns before it.

    The latest turn is every user message after the last assistant message that precedes the last user message;
    messages that follow it (tool outputs, a prefilled answer) are not part of it. Without any user message, all
    text there is gets judged. System messages are the developer's and are not judged beside a user turn.

    Args:
        declared: what the chain says that it reads, where that is certain.

    Raises:
        InputError: it cannot be told what to judge: an ambiguous dict, a missing key, an unknown type.
    """
    turn = read_turn(value, input_key=input_key, declared=declared, context_turns=context_turns)
    return turn.subject if turn.beside is None or turn.open else turn.beside


@dataclass(frozen=True, slots=True)
class Turn:
    """What is judged of an input, and what beside it no rail can read: images, encoded files.

    Attributes:
        open: some of its text stands outside of those; what a block tells of its own file, such as a name, does not.
    """

    subject: Check | Uncheckable
    beside: Uncheckable | None = None
    open: bool = True


def read_turn(
    value: object, *, input_key: InputKey | None = None, declared: Declared | None = None, context_turns: int = 6
) -> Turn:
    """Like ``read_input``, for rails that decide about images and files too.

    Raises:
        InputError: see ``read_input``.
    """
    place = locate(value, input_key=input_key, declared=declared)
    earlier = _history(value) if isinstance(value, Mapping) and place.key not in (None, *HISTORY_KEYS) else []
    found: list[str] = []
    if isinstance(place.part, str):
        turn = [Content(str(place.part), open=bool(place.part.strip()))]
    elif place.raw:
        _messages(place.part)
        turn = [read_raw(place.part)]
    else:
        messages = _messages(place.part)
        start, stop, _ = latest_turn(messages)
        turn = [content for message in _judged(messages[start:stop]) for content in _said(message)]
        earlier = [*earlier, *messages[:start]]
        found = kinds_in(message.content for message in messages[start:stop])
    text = "\n".join(content.text for content in turn if content.text)
    is_open = any(content.open for content in turn)
    sealed = dict.fromkeys(kind for content in turn for kind in content.sealed)
    unread = None
    if sealed or not is_open:
        kinds = ", ".join(dict.fromkeys([*([] if is_open else found), *sealed]))
        what = f"{kinds} beside its text" if is_open else f"only {kinds}" if kinds else "no text"
        send = "send text alone" if is_open else "send text with it"
        unread = Uncheckable(f"the input holds {what}; {send}, or set on_uncheckable", beside=is_open)
    if unread is not None and not text.strip():
        return Turn(unread)
    return Turn(Check(text, rail="input", context=_context(earlier, context_turns)), unread, is_open)


def _history(value: Mapping[object, object]) -> list[BaseMessage]:
    for key in HISTORY_KEYS:
        turns = value.get(key)
        if isinstance(turns, Sequence) and turns and all(isinstance(turn, BaseMessage) for turn in turns):
            return [turn for turn in turns if isinstance(turn, BaseMessage)]
    return []


def _is_langchains(item: object) -> bool:
    """Tell whether of a message that is written out LangChain reads other text than a chain that reads it itself."""
    if isinstance(item, Mapping):
        # Of its own wire format it reads "kwargs" alone, and of a message that removes another no content.
        return "lc" in item or item.get("role", item.get("type")) == "remove"
    return isinstance(item, list | tuple) and len(item) == 2 and item[0] == "remove"


def _messages(value: object) -> list[BaseMessage]:
    if isinstance(value, BaseMessage):
        return [value]
    if isinstance(value, PromptValue):
        return value.to_messages()
    if is_message(value):
        value = [value]
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        if all(isinstance(item, BaseMessage) for item in value):
            return [item for item in value if isinstance(item, BaseMessage)]
        if any(_is_langchains(item) for item in value):
            raise InputError("a message is in a form that only LangChain reads; send role and content")
        try:
            # As chat models read it: what is judged must be what the model would see.
            return convert_to_messages(value)
        except Exception:
            # LangChain's message quotes the input, so it is dropped.
            raise InputError("the list holds something that is not a message; pass input_key=callable") from None
    raise InputError(f"cannot read text from {type(value).__name__}; pass input_key=callable to guard()")


def _role(message: BaseMessage) -> Role:
    for kind, role in _ROLES:
        if isinstance(message, kind):
            return role
    # An unknown role is taken for the user's: judged rather than trusted.
    return _CHAT_ROLES.get(message.role.lower(), "user") if isinstance(message, ChatMessage) else "user"


def _turns(roles: Sequence[Role]) -> Iterator[tuple[int, int, list[int]]]:
    """Yield where user turns begin and end, and which messages are the user's, latest turn first."""
    users: list[int] = []
    for index in range(len(roles) - 1, -1, -1):
        if roles[index] == "user":
            users.insert(0, index)
        if users and (index == 0 or roles[index - 1] == "assistant"):
            yield index, users[-1] + 1, users
            users = []


def read_messages(messages: Sequence[Any]) -> list[Message]:
    """Return the role and the text of every message of a list, as the rails read them.

    Raises:
        InputError: the list holds something that is not a message.
    """
    return [Message(_role(message), text_in(message.content)) for message in _messages(messages)]


def latest_turn(messages: Sequence[Any]) -> tuple[int, int, list[int]]:
    """Return where the latest user turn of a list begins and ends, and which of it are user messages.

    Raises:
        InputError: the list holds something that is not a message.
    """
    roles = [_role(message) for message in _messages(messages)]
    return next(_turns(roles), (0, len(roles), []))


def user_turns(messages: Sequence[BaseMessage]) -> Iterator[tuple[int, list[int]]]:
    """Yield the user turns of a list, latest first: where each ends, and which messages in it are the user's."""
    return ((stop, users) for _, stop, users in _turns([_role(message) for message in messages]))


def _judged(turn: Sequence[BaseMessage]) -> list[BaseMessage]:
    users = [message for message in turn if _role(message) == "user"]
    return users or list(turn)


def _said(message: BaseMessage) -> Iterator[Content]:
    name = name_in(message)
    if name is not None:
        yield Content(name)
    yield read_content(message.content)


def _context(earlier: Sequence[BaseMessage], turns: int) -> tuple[Message, ...]:
    spoken: list[Message] = []
    for message in reversed(earlier):
        if len(spoken) == turns:
            break
        role = _role(message)
        if role not in ("user", "assistant"):
            continue
        # What a model thinks and orders is not what it said.
        text = part_of(message).answer if role == "assistant" else text_in(message.content)
        if text.strip():
            spoken.append(Message(role, text))
    return tuple(reversed(spoken))
