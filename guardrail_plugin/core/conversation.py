"""What is judged: one text at one rail, with as much conversation as the guardian should see."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from guardrail_plugin.core.errors import ConfigError, InputError, did_you_mean
from guardrail_plugin.core.verdict import RAILS, Rail

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. ``repr`` shows its length, not its text."""

    role: Role
    text: str = field(repr=False)

    def __rich_repr__(self) -> object:
        yield "role", self.role
        yield "characters", len(self.text)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to judge. ``repr`` never shows text.

    Attributes:
        text: the text under judgement: a query, a response, rendered tool arguments, a tool's output, a document.
        rail: where it was met; it selects the guardian's task.
        query: for the output rail, what the response answers.
        context: earlier turns, oldest first. They inform the verdict; they are not judged again.

    Raises:
        InputError: the text is no text.
        ConfigError: there is no such rail, or the context holds something other than messages.
    """

    text: str = field(repr=False)
    rail: Rail = "input"
    query: str | None = field(default=None, repr=False)
    context: tuple[Message, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise InputError(f"a guardian checks text, got {type(self.text).__name__}")
        if self.rail not in RAILS:
            raise ConfigError(f"unknown rail {self.rail!r}{did_you_mean(str(self.rail), RAILS)}")
        for turn in self.context:
            if not isinstance(turn, Message):
                raise ConfigError(f"context is a tuple of Message(role, text), got {type(turn).__name__} in it")
