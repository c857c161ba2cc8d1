"""Guardrails for LangChain agents and LangGraph graphs.

    from guardrail_langchain import GuardrailMiddleware

    agent = create_agent(model, tools, middleware=[GuardrailMiddleware(guardian=guardian)])

``GuardrailMiddleware`` puts all rails around an agent. Graphs made by hand put ``guardrail_node`` before the model,
``guardrail_plugin.guard_model`` around it and ``guardrail_plugin.guard_tool`` around each tool. ``GuardedSaver`` keeps
what was not judged out of a checkpointer's store.
"""

from __future__ import annotations

from guardrail_plugin import MissingDependencyError

try:
    from guardrail_langchain.held import held_messages
    from guardrail_langchain.middleware import GuardrailMiddleware
    from guardrail_langchain.node import guardrail_node
    from guardrail_langchain.saver import GuardedSaver
    from guardrail_langchain.settings import AgentRail, GuardrailOverrides
except ModuleNotFoundError as error:
    if str(error.name).partition(".")[0] not in ("langchain", "langgraph"):
        raise
    raise MissingDependencyError(str(error.name), extra="langchain") from None

__all__ = [
    "AgentRail",
    "GuardedSaver",
    "GuardrailMiddleware",
    "GuardrailOverrides",
    "guardrail_node",
    "held_messages",
]
