"""``guardrail_node()``: the input rail as a node of a graph made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.runnables.config import ensure_config
from langgraph.graph import END
from langgraph.types import Command

from guardrail_langchain.settings import Settings
from guardrail_langchain.turns import Turn, answer, written
from guardrail_plugin import InputError, Policy, ToolPolicy
from guardrail_plugin.core.policy import OnFailure
from guardrail_plugin.flow import OnEscalate, Outcome
from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.runnables import InputStage, aunder_config, latest_turn, under_config


def guardrail_node(
    *,
    guardian: GuardianProtocol,
    then: str,
    blocked: str = END,
    policy: Policy | None = None,
    messages_key: str = "messages",
    on_uncheckable: OnFailure = "block",
    on_escalate: OnEscalate | None = None,
    context_turns: int = 6,
) -> Runnable[Any, Command[Any]]:
    """Return a node that judges the latest user turn, and sends the graph on or to its end.

        graph.add_node("guardrail", guardrail_node(guardian=guardian, then="model"), destinations=("model", END))
        graph.add_edge(START, "guardrail")

    The node goes where it decides by ``Command``: give it no other edge. A blocked turn's text is replaced in the
    state by id, and a safeguard response is added; the state's ``messages`` must be reduced by ``add_messages``, as in
    ``MessagesState``. ``"escalate"`` pauses the graph, as in ``GuardrailMiddleware``.

    Does not: judge what the model or a tool says; see ``guard_model`` and ``guard_tool``. Nor does it, with
    ``on_block="raise"``, take a blocked message out of the state: remove it (``RemoveMessage``), or the next raises.

    Args:
        guardian: who judges.
        then: the node that goes on.
        blocked: where a blocked turn goes, with the safeguard response in the state.
        policy: when to act.
        messages_key: where the state keeps the conversation.
        on_uncheckable: what happens to a turn without text, and to images and files beside text.
        on_escalate: whom to ask in place of pausing the graph.
        context_turns: earlier user and assistant turns that the guardian sees.

    Raises:
        ConfigError: a setting is wrong.
    """
    settings = Settings(
        guardian=guardian,
        policy=policy if policy is not None else Policy(),
        tools=ToolPolicy(),
        rails=("input",),
        window="sentence",
        release="checked",
        on_uncheckable=on_uncheckable,
        on_escalate=on_escalate,
        context_turns=context_turns,
    )
    stage = settings.input_stage(settings.ask)

    def judge(state: Any) -> Command[Any]:
        messages = _messages(state, messages_key)
        outcomes = stage.judge([messages], [under_config(ensure_config())])
        return _command(stage, messages, outcomes)

    async def ajudge(state: Any) -> Command[Any]:
        messages = _messages(state, messages_key)
        outcomes = await stage.ajudge([messages], [aunder_config(ensure_config())])
        return _command(stage, messages, outcomes)

    def _command(stage: InputStage, messages: Sequence[BaseMessage], outcomes: Sequence[Outcome]) -> Command[Any]:
        _, stop, users = latest_turn(messages)
        changes = written(messages, [Turn(stop, tuple(users))], outcomes)
        said = answer(stage, outcomes)
        update = {messages_key: [*changes, *([said] if said is not None else [])]}
        return Command(update=update, goto=then if said is None else blocked)

    return RunnableLambda(judge, ajudge, name="guardrail")


def _messages(state: Any, key: str) -> list[BaseMessage]:
    found = state.get(key) if isinstance(state, Mapping) else getattr(state, key, None)
    if not isinstance(found, list) or not all(isinstance(item, BaseMessage) for item in found):
        raise InputError(f"the graph's state has no list of messages under {key!r}")
    return found
