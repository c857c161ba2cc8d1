"""A check as a conversation of user and assistant whose last turn is judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from guardrail_plugin.core.conversation import Check

Speaker: TypeAlias = Literal["user", "assistant"]


@dataclass(frozen=True, slots=True)
class Conversation:
    """Roles of all turns, and the texts of those before the last."""

    roles: tuple[Speaker, ...]
    earlier: tuple[str, ...] = field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the turns' holes in a frame."""
        return (*(f"turn{i}" for i in range(len(self.earlier))), "text")


def conversation_of(check: Check, *, most_turns: int = 4) -> Conversation:
    """Return a conversation that begins with the user and alternates, as every guard's template demands.

    The output rail judges the assistant's turn, all other rails the user's. Neighbouring turns of one speaker are one;
    those of others (tools, the system) are left out.
    """
    spoken: list[tuple[Speaker, str]] = []
    if check.rail == "output":
        spoken.append(("user", check.query if check.query is not None else _last_query(check)))
        return Conversation(("user", "assistant"), (spoken[0][1],))
    for message in reversed(check.context):
        if message.role != "user" and message.role != "assistant":
            continue
        if spoken and spoken[0][0] == message.role:
            spoken[0] = (message.role, f"{message.text}\n{spoken[0][1]}")
        elif len(spoken) == most_turns:
            break
        else:
            spoken.insert(0, (message.role, message.text))
    if spoken and spoken[-1][0] == "user":  # it would stand beside the user's turn that is judged
        del spoken[-1]
    if spoken and spoken[0][0] == "assistant":
        del spoken[0]
    return Conversation((*(role for role, _ in spoken), "user"), tuple(text for _, text in spoken))


def _last_query(check: Check) -> str:
    return next((message.text for message in reversed(check.context) if message.role == "user"), "")
