"""The step in which a paused graph asks about what is held, and ends the run where an answer was blocked."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from guardrail_langchain.held import (
    WAITING,
    GuardrailState,
    ask_about,
    blocked_last,
    decided,
    message_of,
    mine,
    verdict_of,
)
from guardrail_langchain.settings import Settings
from guardrail_langchain.turns import after
from guardrail_plugin import Check
from guardrail_plugin.flow import Respond, Steps, run_async, run_sync
from guardrail_plugin.flow.rails import BLOCKED_RESPONSE
from guardrail_plugin.flow.tool_rails import OUTPUT_BLOCKED


class Review:
    """What one middleware holds of one kind, and what is decided about it."""

    def __init__(self, state: GuardrailState, settings: Settings, *, by: str, kind: type[BaseMessage]) -> None:
        self._messages = state["messages"]
        self._settings = settings
        self._answers = kind is AIMessage
        held = mine(state, by, kind=kind)
        waiting = {message.id for message in self._messages if message.text == WAITING}
        self._held = {key: item for key, item in held.items() if key in waiting}
        # Trimmed, removed or overwritten meanwhile: nobody is asked any more, and nothing comes back.
        self._gone = dict.fromkeys(held.keys() - self._held.keys())

    def run(self) -> dict[str, Any] | None:
        """Return the update of the agent's state.

        Raises:
            GraphInterrupt: a decision is missing.
        """
        if not self._held:
            return self._nothing()
        return self._update(run_sync(self._decide(), self._settings.guardian))

    async def arun(self) -> dict[str, Any] | None:
        """Like ``run``. Cancellation: passes to the guardian."""
        if not self._held:
            return self._nothing()
        return self._update(await run_async(self._decide(), self._settings.guardian))

    def _decide(self) -> Steps[list[BaseMessage]]:
        # All questions before anything else: each resume runs this step from its beginning.
        said = {key: ask_about(item, key) for key, item in self._held.items()}
        messages: list[BaseMessage] = []
        for key, item in self._held.items():
            verdict = verdict_of(item)
            refusal = OUTPUT_BLOCKED.format(hazard=f" ({verdict.hazard})" if verdict.hazard else "")
            if said[key] == "block" and self._answers:
                written = yield Respond(self._check(message_of(item)), verdict, self._settings.policy.timeout_s)
                refusal = written if isinstance(written, str) and written.strip() else BLOCKED_RESPONSE
            messages.append(decided(item, said[key], refusal=refusal))
        return messages

    def _check(self, message: BaseMessage) -> Check:
        before = [said for said in self._messages if said.id != message.id]
        return self._settings.input_stage(None).asked(before).check(message.text or " ")

    def _nothing(self) -> dict[str, Any] | None:
        ended = self._end(())
        return {"guardrail_held": self._gone, **(ended or {})} if self._gone else ended

    def _update(self, messages: list[BaseMessage]) -> dict[str, Any]:
        cleared: dict[str, None] = dict.fromkeys(self._held) | self._gone
        return {"messages": messages, "guardrail_held": cleared, **(self._end(messages) or {})}

    def _end(self, messages: list[BaseMessage] | tuple[()]) -> dict[str, Any] | None:
        """End the run after a blocked answer: a loop that waits for a structured one would ask the model again."""
        ended = self._answers and blocked_last(after(self._messages, messages))
        return {"jump_to": "end"} if ended else None
