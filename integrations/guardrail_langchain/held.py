"""Answers and tool outputs that wait for a person, kept in the graph's state while it is paused.

A graph that resumes runs the paused node again, and would call a model or a tool a second time. So what a person is
asked about is put aside first, the step ends, and the question is asked in a step of its own: the decision is
about exactly the text that was shown. Such a text is in the checkpoint while it waits, and in the thread's history;
``GuardedSaver`` keeps it out of the store. Streams of the state hold it packed (``guardrail_held``): not readable at a
glance, but neither encrypted. Do not pass that key on to clients.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeAlias
from zlib import compress, decompress

from langchain.agents.middleware.types import AgentState, PrivateStateAttr
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import interrupt
from typing_extensions import NotRequired

from guardrail_plugin import Check, Verdict
from guardrail_plugin.runnables import is_name

WAITING = "This waits for a person's decision."
"""Stands in for what is held, under its message id."""

Held: TypeAlias = dict[str, Any]
"""``by``: whose middleware; ``rail``; ``verdict``: its fields; ``kind`` and ``packed``: what waits."""

_SERDE = JsonPlusSerializer()


def _merged(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> dict[str, Any]:
    """Add entries; ``None`` removes one."""
    both = {**(old or {}), **(new or {})}
    return {key: value for key, value in both.items() if value is not None}


class Aside:
    """Whom the rails of one call ask: puts what a person is to decide about aside, for a step of its own.

    Attributes:
        verdicts: because of which something was put aside.
        inside: what these rails let through goes on to those of another guard, which would judge the words that stand
            in for it: so nothing is put aside, and it is blocked.
    """

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self.inside = False

    def __call__(self, verdict: Verdict, check: Check) -> str:
        """Answer for the person."""
        if self.inside:
            return "block"
        self.verdicts.append(verdict)
        return WAITING


def put_inside(ask: object) -> None:
    """Note that the rails which ask so have those of another guard around them."""
    if isinstance(ask, Aside):
        ask.inside = True


class GuardrailState(AgentState[Any]):
    """What the middleware remembers. Private: part of neither input nor output of the agent."""

    guardrail_judged: NotRequired[Annotated[dict[str, Any], PrivateStateAttr, _merged]]
    guardrail_held: NotRequired[Annotated[dict[str, Any], PrivateStateAttr, _merged]]


def held_messages(values: Mapping[str, Any]) -> dict[str, BaseMessage]:
    """Return what waits for a decision, by message id: ``held_messages(agent.get_state(config).values)``."""
    return {key: message_of(held) for key, held in (values.get("guardrail_held") or {}).items()}


def entry(message: BaseMessage, verdict: Verdict, *, by: str) -> Held:
    """Return a message as it is held, in types that every checkpointer can write.

    Packed: LangGraph shows private state, too, to whoever listens to updates, values or events. An artifact of another
    type than those is left out.
    """
    try:
        kind, packed = _SERDE.dumps_typed(message)
    except TypeError:
        kind, packed = _SERDE.dumps_typed(message.model_copy(update={"artifact": None}))
    return {"by": by, "rail": verdict.rail, "verdict": verdict.as_dict(), "kind": kind, "packed": compress(packed)}


def message_of(held: Held) -> BaseMessage:
    """Return the message that waits."""
    message: BaseMessage = _SERDE.loads_typed((held["kind"], decompress(held["packed"])))
    return message


def verdict_of(held: Held) -> Verdict:
    """Return the verdict because of which something is held."""
    return Verdict(**held["verdict"])


def ask(verdict: Verdict, check: Check) -> str:
    """Pause the graph until somebody resumes it with a decision.

    ``Command(resume="allow")``, ``"block"``, or the text that goes on instead; ``{"action": "edit", "text": ...}``
    says the same. For a tool call the text is a JSON object of arguments, which may be given as one.

    Raises:
        GraphInterrupt: the first time; LangGraph's control flow, which passes.
    """
    return decision(interrupt({**_question(verdict), "text": check.text}))


def ask_about(held: Held, message_id: str) -> str:
    """Like ``ask``, about something in the state. The text itself is not shown: who reads the stream would read it.

    Raises:
        GraphInterrupt: the first time.
    """
    return decision(interrupt({**_question(verdict_of(held)), "message_id": message_id}))


def _question(verdict: Verdict) -> dict[str, Any]:
    return {
        "type": "guardrail",
        "rail": verdict.rail,
        "hazard": verdict.hazard,
        "risk": round(verdict.risk, 6),
        "choices": ["allow", "block", "edit"],
    }


def decision(given: object) -> str:
    """Read what a graph was resumed with. What cannot be read blocks."""
    if isinstance(given, Mapping) and "action" in given:
        if given["action"] != "edit":
            return "allow" if given["action"] == "allow" else "block"
        given = given.get("text")
    if isinstance(given, Mapping):
        return json.dumps(given, ensure_ascii=False)
    return given if isinstance(given, str) and given.strip() else "block"


def decided(held: Held, said: str, *, refusal: str) -> BaseMessage:
    """Return what takes the place of something held, under its id.

    Args:
        refusal: what is said when the decision is to block.
    """
    message = message_of(held)
    if said == "allow":
        return message
    fields = {**held["verdict"], "action": "block" if said == "block" else "edit"}
    text = refusal if said == "block" else said
    if isinstance(message, ToolMessage):
        return ToolMessage(
            content=text,
            id=message.id,
            tool_call_id=message.tool_call_id,
            name=message.name if is_name(message.name or "") else None,
            status="error" if said == "block" else message.status,
            response_metadata={"guardrail": fields},
        )
    return AIMessage(content=text, id=message.id, name=message.name, response_metadata={"guardrail": fields})


def mine(state: Mapping[str, Any], name: str, *, kind: type[BaseMessage]) -> dict[str, Held]:
    """Return what one middleware holds of one kind."""
    held = state.get("guardrail_held") or {}
    return {key: item for key, item in held.items() if item["by"] == name and isinstance(message_of(item), kind)}


def blocked_last(messages: Sequence[BaseMessage]) -> bool:
    """Tell whether the model's latest answer was blocked: the run ends there, whatever else would go on."""
    last = next((message for message in reversed(messages) if isinstance(message, AIMessage)), None)
    told = last.response_metadata.get("guardrail") if last is not None else None
    return isinstance(told, Mapping) and told.get("action") in ("block", "escalate")
