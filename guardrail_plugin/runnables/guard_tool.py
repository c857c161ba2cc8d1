"""``guard_tool()``: the public door to ``GuardedTool``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from langchain_core.tools import BaseTool
from langchain_core.tools import tool as make_tool

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.policy import OnFailure, Policy
from guardrail_plugin.flow import OnEscalate, Rules
from guardrail_plugin.flow.tool_rails import ToolPolicy
from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.runnables.construction import check_guardian, check_word, checked_policy
from guardrail_plugin.runnables.tool_stage import ToolStage
from guardrail_plugin.runnables.tools import GuardedTool, Handle


def guard_tool(
    tool: BaseTool | Callable[..., Any],
    *,
    guardian: GuardianProtocol,
    policy: Policy | None = None,
    tools: ToolPolicy | None = None,
    handle: Handle | None = None,
    on_uncheckable: OnFailure = "block",
    on_escalate: OnEscalate | None = None,
) -> GuardedTool:
    """Put rails around a tool. Returns a tool of the same name and schema.

    The name and arguments are judged before the call, rendered as data; the output is judged before anybody reads it,
    and so is the text of an exception, which a graph's error handling may show to the model.
    A block returns a ``ToolMessage`` with ``status="error"`` and a short reason, or the reason alone where the tool is
    not called with a tool call; what was returned beside the blocked message (siblings, a ``Command``'s other
    updates) goes on. Inside ``guard(overlap=True)`` the tool waits for the verdict on the input.

    Args:
        tool: any tool, or a function that ``langchain_core.tools.tool`` can make into one.
        guardian: who judges.
        policy: when to act, for the rails ``tool_call`` and ``tool_output``.
        tools: exceptions by tool name; one ``ToolPolicy`` serves many tools.
        handle: ``"message"`` returns the reason, ``"raise"`` raises ``ToolBlockedError``. ``None``: as the policy's
            ``on_block`` says.
        on_uncheckable: what happens when the guardian finds no text in a call, and to files in an output that cannot
            be read, such as a PDF or a link to one. Images, audio and video pass.
        on_escalate: whom to ask when the policy, or ``tools.always_escalate``, says so. An edited call is a JSON
            object of arguments.

    Raises:
        ConfigError: a setting is wrong.
    """
    check_guardian(guardian)
    check_word("on_uncheckable", on_uncheckable, get_args(OnFailure))
    policy = checked_policy(policy, guardian)
    if tools is not None and not isinstance(tools, ToolPolicy):
        raise ConfigError(f"tools must be a ToolPolicy, got {type(tools).__name__}")
    if on_escalate is not None and not callable(on_escalate):
        raise ConfigError(f"on_escalate must be a function, got {type(on_escalate).__name__}")
    if not isinstance(tool, BaseTool):
        if not callable(tool):
            raise ConfigError(f"cannot guard a {type(tool).__name__}: it is not a tool")
        tool = make_tool(tool)
    rules = Rules(policy=policy, on_uncheckable=on_uncheckable, on_escalate=on_escalate)
    if handle is None:
        handle = "raise" if rules.policy.on_block == "raise" else "message"
    check_word("handle", handle, get_args(Handle))
    stage = ToolStage(guardian=guardian, rules=rules, tools=tools or ToolPolicy())
    return GuardedTool(inner=tool, stage=stage, handle=handle)
