"""Where in an input the user's text is: under which key, and whether the chain reads what is there as messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from langchain_core.messages import BaseMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder, PromptTemplate
from langchain_core.prompts.message import BaseMessagePromptTemplate
from langchain_core.runnables import RunnableBinding, RunnableSequence, RunnableWithFallbacks
from langchain_core.runnables.retry import RunnableRetry

from guardrail_plugin.core.errors import InputError, did_you_mean
from guardrail_plugin.runnables.block_kinds import MESSAGE_KEYS

InputKey: TypeAlias = str | Callable[[object], object]

QUERY_KEYS = ("messages", "input", "question", "query")
"""Keys of a dict input that are read without ``input_key``, if exactly one of them is there."""

HISTORY_KEYS = ("chat_history", "history")
"""Keys whose messages are read as earlier turns of a dict, unless a function picks from it."""

_ADVICE = "pass input_key='...' or input_key=callable to guard()"


@dataclass(frozen=True, slots=True)
class Declared:
    """What a chain says that it reads of an input: the variables of the prompt at its head.

    Attributes:
        keys: all that it reads of a dict.
        messages: those of them that it reads as messages, and never writes into a text.
        sole: the one that an input takes which is no dict; ``None``: there is not just one.
    """

    keys: frozenset[str]
    messages: frozenset[str]
    sole: str | None


@dataclass(frozen=True, slots=True)
class Place:
    """The user's part of an input.

    Attributes:
        key: where it is in a dict; ``None``: it is the whole input, or a function picked it.
        raw: plain dicts or lists that the chain may not read as messages. All strings in them can reach its model:
            those of all roles, under all keys.
    """

    part: object
    key: Any = None
    raw: bool = False


def locate(value: object, *, input_key: InputKey | None = None, declared: Declared | None = None) -> Place:
    """Find the user's part of an input.

    What a function picked, and what is under ``messages``, is taken for messages.

    Raises:
        InputError: it cannot be told, or it is not there.
    """
    if callable(input_key):
        return Place(_picked(value, input_key))
    key: Any = input_key
    if key is None and isinstance(value, Mapping):
        key = _guessed(value, declared)
    if key is None:
        return Place(value, raw=declared is not None and declared.sole not in declared.messages and _is_raw(value))
    part = _under(value, key)
    as_messages = key == "messages" if declared is None else key in declared.messages
    return Place(part, key, raw=not as_messages and _is_raw(part))


def is_message(value: object) -> bool:
    """Tell whether a dict can be a message that is written out."""
    return isinstance(value, Mapping) and "content" in value and ("role" in value or "type" in value)


def declared_by(runnable: object) -> Declared | None:
    """Return what a chain says that it reads; ``None``: that is not known for certain.

    Known are prompts and what passes its own input on to one. A class made from one of these may do anything.
    """
    if type(runnable) is RunnableSequence:
        return declared_by(runnable.first)
    if type(runnable) in (RunnableBinding, RunnableRetry) and isinstance(runnable, RunnableBinding | RunnableRetry):
        return declared_by(runnable.bound)
    if type(runnable) is RunnableWithFallbacks:
        return _common([declared_by(one) for one in runnable.runnables])
    if type(runnable).__module__.startswith("langchain_core.") and isinstance(
        runnable, ChatPromptTemplate | PromptTemplate
    ):
        return _of_prompt(runnable)
    return None


def _of_prompt(prompt: ChatPromptTemplate | PromptTemplate) -> Declared | None:
    # Callers can give optional and partial variables, too.
    keys = frozenset([*prompt.input_variables, *prompt.optional_variables, *prompt.partial_variables])
    sole = prompt.input_variables[0] if len(prompt.input_variables) == 1 else None
    held: set[str] = set()
    written: set[str] = set()
    for message in prompt.messages if isinstance(prompt, ChatPromptTemplate) else ():
        if isinstance(message, MessagesPlaceholder):
            held.add(message.variable_name)
        elif isinstance(message, BaseMessagePromptTemplate | ChatPromptTemplate):
            written.update(message.input_variables)
        elif not isinstance(message, BaseMessage):
            return None
    # A prompt without variables says nothing of what the input is for.
    return Declared(keys, frozenset(held - written), sole) if keys else None


def _common(parts: Sequence[Declared | None]) -> Declared | None:
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    return Declared(
        frozenset.intersection(*(part.keys for part in known)),
        frozenset.intersection(*(part.messages for part in known)),
        known[0].sole if len({part.sole for part in known}) == 1 else None,
    )


def _guessed(value: Mapping[Any, object], declared: Declared | None) -> Any:
    """Return the key of a dict under which the user's text or messages are; ``None``: it is a message itself."""
    if not is_message(value):
        key = _only_key(value)
    elif not value.keys() <= MESSAGE_KEYS:
        found = "the keys of a message and others"
        raise InputError(f"cannot tell which part of this dict is the user's: it has {found}; {_ADVICE}")
    elif declared is None:
        return None
    else:
        key = "content"
    if declared is None or key in declared.keys:
        return key
    raise InputError(f"cannot tell which part of this dict is the user's: the prompt reads others of it; {_ADVICE}")


def _only_key(value: Mapping[Any, object]) -> Any:
    known = [key for key in QUERY_KEYS if key in value]
    if len(known) == 1:
        return known[0]
    if not known:
        readable = [key for key, item in value.items() if not isinstance(item, int | float | bool | None)]
        if len(readable) == 1:
            return readable[0]
    found = f"more than one of {', '.join(known)}" if known else "no single value that holds text"
    raise InputError(f"cannot tell which part of this dict is the user's: it has {found}; {_ADVICE}")


def _picked(value: object, pick: Callable[[object], object]) -> object:
    try:
        return pick(value)
    except Exception as error:
        # Its message may quote the input, so only its type is passed on.
        raise InputError(f"input_key raised {type(error).__name__}") from None


def _under(value: object, key: Any) -> object:
    if not isinstance(value, Mapping):
        raise InputError(f"input_key={key!r} needs a dict, got {type(value).__name__}")
    if key not in value:
        near = did_you_mean(key, [name for name in value if isinstance(name, str)])
        raise InputError(f"the input has no key {key!r}{near}")
    return value[key]


def _is_raw(part: object) -> bool:
    if isinstance(part, Sequence) and not isinstance(part, str | bytes | bytearray | memoryview):
        return not all(isinstance(item, BaseMessage) for item in part)
    return isinstance(part, Mapping)
