"""``guard_model()``: the public door to ``GuardedChatModel``."""

from __future__ import annotations

from typing import Any, get_args

from langchain_core.language_models import LanguageModelInput
from langchain_core.runnables import Runnable

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.policy import OnFailure, Policy
from guardrail_plugin.flow import OnEscalate, Release, Rules, Window, WindowSetting
from guardrail_plugin.flow.tool_rails import ToolPolicy
from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.runnables.answers import calls_but_tools, every_call
from guardrail_plugin.runnables.construction import check_guardian, check_word, checked_policy
from guardrail_plugin.runnables.guarded_model import GuardedChatModel
from guardrail_plugin.runnables.output_stage import OutputStage
from guardrail_plugin.runnables.tool_stage import ToolStage


def guard_model(
    model: Runnable[LanguageModelInput, Any],
    *,
    guardian: GuardianProtocol,
    policy: Policy | None = None,
    tools: ToolPolicy | None = None,
    window: WindowSetting = "sentence",
    release: Release = "checked",
    on_uncheckable: OnFailure = "block",
    on_escalate: OnEscalate | None = None,
    context_turns: int = 6,
) -> GuardedChatModel:
    """Put an output rail around a chat model. Returns a chat model, for graphs, agents and chains.

    Unlike ``guard(model)``, what it says can be listened to token by token from outside (``astream_events``,
    LangGraph's ``stream_mode="messages"``), because callbacks hear only what has been released. A blocked answer is
    replaced under its message id; ``invoke`` returns the replacement alone.

    Does not: judge what the model is asked; put an input rail before it.

    Args:
        model: a chat model, or one with settings bound.
        guardian: who judges.
        policy: when to act, for the rails ``output`` and ``tool_call``.
        tools: judge tool calls one by one: a blocked call's arguments are withheld and its siblings go on. **Only
            where the tools are behind** ``guard_tool`` or agent middleware, which refuse such calls. ``None``: a
            blocked call blocks the answer.
        window: how much of a streamed answer a check waits for: ``"sentence"``, a number of words, or ``"answer"``.
        release: ``"checked"``, or ``"optimistic"``: text leaves at once and is taken back when it is blocked.
        on_uncheckable: what happens to an answer without text, such as an image, and to images and files beside text.
        on_escalate: whom to ask when the policy says so. Not LangGraph's ``interrupt``: a graph that resumes calls its
            model again, and a decision about one answer would be applied to another.
        context_turns: earlier user and assistant turns that the guardian sees.

    Raises:
        ConfigError: a setting is wrong.
    """
    check_guardian(guardian)
    check_word("on_uncheckable", on_uncheckable, get_args(OnFailure))
    check_word("release", release, get_args(Release))
    if not isinstance(model, Runnable):
        raise ConfigError(f"model must be a chat model, got {type(model).__name__}")
    rules = Rules(policy=checked_policy(policy, guardian), on_uncheckable=on_uncheckable, on_escalate=on_escalate)
    stage = OutputStage(
        guardian=guardian,
        rules=rules,
        kind="message",
        on_block=None,
        output_text=None,
        window=Window(window),
        release=release,
        calls=every_call if tools is None else calls_but_tools(),
    )
    calls = None if tools is None else ToolStage(guardian=guardian, rules=rules, tools=tools)
    return GuardedChatModel(inner=model, stage=stage, calls=calls, context_turns=context_turns)
