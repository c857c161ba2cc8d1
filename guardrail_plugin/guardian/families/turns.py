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

    The output rail judges the assistant's turn, all other rails the user's. Turns that would break the alternation
    end the look back: what is older is left out.
    """
    spoken: list[tuple[Speaker, str]] = []
    if check.rail == "output":
        spoken.append(("user", check.query if check.query is not None else _last_query(check)))
        return Conversation(("user", "assistant"), (spoken[0][1],))
    wanted: Speaker = "assistant"
    for message in reversed(check.context):
        if message.role != wanted or len(spoken) == most_turns:
            break
        spoken.insert(0, (wanted, message.text))
        wanted = "user" if wanted == "assistant" else "assistant"
    if spoken and spoken[0][0] == "assistant":
        del spoken[0]
    return Conversation((*(role for role, _ in spoken), "user"), tuple(text for _, text in spoken))


def _last_query(check: Check) -> str:
    return next((message.text for message in reversed(check.context) if message.role == "user"), "")
