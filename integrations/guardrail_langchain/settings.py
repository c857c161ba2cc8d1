"""What the rails of an agent go by, and what one run may change about it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal, TypeAlias, get_args

from guardrail_langchain.held import ask
from guardrail_langchain.own_outputs import OwnOutputs
from guardrail_langchain.steady import Steady
from guardrail_plugin import Check, ConfigError, Policy, ToolPolicy, Verdict
from guardrail_plugin.core.policy import OnFailure
from guardrail_plugin.flow import OnEscalate, Release, Rules, Window, WindowSetting
from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.runnables import (
    InputStage,
    OutputStage,
    ToolStage,
    calls_but_tools,
    check_guardian,
    check_word,
    checked_policy,
)

AgentRail: TypeAlias = Literal["input", "output", "tools"]
RAILS: tuple[AgentRail, ...] = get_args(AgentRail)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardrailOverrides:
    """What one run changes: ``None`` leaves a setting as it is.

    Given as the run's context, or under the name ``guardrail`` in it:
    ``agent.invoke(..., context=GuardrailOverrides(policy=strict))``.

    Only an instance counts. A dict of this shape is refused, because contexts that come over the network are dicts,
    and whoever sends a request must not be able to switch its rails off.
    """

    policy: Policy | None = None
    tools: ToolPolicy | None = None
    rails: Sequence[AgentRail] | None = None
    window: WindowSetting | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one middleware. Immutable and shared by all runs."""

    guardian: GuardianProtocol
    policy: Policy
    tools: ToolPolicy
    rails: Sequence[AgentRail]
    window: WindowSetting
    release: Release
    on_uncheckable: OnFailure
    on_escalate: OnEscalate | None
    context_turns: int
    own: OwnOutputs = field(default_factory=OwnOutputs, compare=False)

    def __post_init__(self) -> None:
        """Check all settings.

        Raises:
            ConfigError: one is wrong; the message names it.
        """
        check_guardian(self.guardian)
        if not isinstance(self.guardian, Steady):
            object.__setattr__(self, "guardian", Steady(self.guardian))
        check_word("on_uncheckable", self.on_uncheckable, get_args(OnFailure))
        check_word("release", self.release, get_args(Release))
        Window(self.window)
        checked_policy(self.policy, self.guardian)
        if not isinstance(self.tools, ToolPolicy):
            raise ConfigError(f"tools must be a ToolPolicy, got {type(self.tools).__name__}")
        if self.on_escalate is not None and not callable(self.on_escalate):
            raise ConfigError(f"on_escalate must be a function, got {type(self.on_escalate).__name__}")
        if not isinstance(self.context_turns, int) or self.context_turns < 0:
            raise ConfigError(f"context_turns must be 0 or more, got {self.context_turns!r}")
        if isinstance(self.rails, str) or not isinstance(self.rails, Sequence):
            raise ConfigError(f"rails must be a list of {', '.join(RAILS)}, got {self.rails!r}")
        for rail in self.rails:
            check_word("rails", rail, RAILS)

    def under(self, context: object) -> Settings:
        """Return the settings of one run.

        Raises:
            ConfigError: what the run's context holds under ``guardrail`` are no ``GuardrailOverrides``.
        """
        given = context
        if not isinstance(context, GuardrailOverrides):
            found = context.get("guardrail") if isinstance(context, Mapping) else getattr(context, "guardrail", None)
            if found is None:
                return self
            given = found
        if not isinstance(given, GuardrailOverrides):
            raise ConfigError(f"context.guardrail must be GuardrailOverrides, got {type(given).__name__}")
        changed = {item.name: getattr(given, item.name) for item in fields(given)}
        return replace(self, **{name: value for name, value in changed.items() if value is not None})

    def ask(self, verdict: Verdict, check: Check) -> str:
        """Pause the graph until somebody decides; when its node resumes, what it has judged stays.

        Raises:
            GraphInterrupt: the first time.
        """
        self.keep()
        return ask(verdict, check)

    def keep(self) -> None:
        """Note that the node that runs here is about to pause: when it resumes, what it has judged stays."""
        if isinstance(self.guardian, Steady):
            self.guardian.keep()

    def input_stage(self, ask: OnEscalate | None, *, quiet: bool = False) -> InputStage:
        """Return the rail for what users say.

        Args:
            quiet: nobody is answered where it blocks: no response is written, and nothing raises.
        """
        rules = self._rules(ask)
        if quiet:
            policy = rules.policy.model_copy(update={"on_block": "respond"})
            rules = replace(rules, policy=policy, respond=False)
        return InputStage(
            guardian=self.guardian,
            rules=rules,
            kind="message",
            input_key=None,
            on_block=None,
            context_turns=self.context_turns,
        )

    def output_stage(self, ask: OnEscalate | None, *, structured: frozenset[str] = frozenset()) -> OutputStage:
        """Return the rail for what the model says.

        Args:
            structured: names of tools that are forms for an answer.
        """
        return OutputStage(
            guardian=self.guardian,
            rules=self._rules(ask),
            kind="message",
            on_block=None,
            output_text=None,
            window=Window(self.window),
            release=self.release,
            calls=calls_but_tools(structured),
        )

    def tool_stage(self, ask: OnEscalate | None, *, structured: frozenset[str] = frozenset()) -> ToolStage:
        """Return the rails for what tools are told and tell."""
        tools = self.tools
        if structured:
            tools = ToolPolicy(
                allow=None if tools.allow is None else tools.allow | structured,
                always_escalate=tools.always_escalate - structured,
                trust_arguments=tools.trust_arguments | structured,
                trust_outputs=tools.trust_outputs,
            )
        return ToolStage(guardian=self.guardian, rules=self._rules(ask), tools=tools)

    def _rules(self, ask: OnEscalate | None) -> Rules:
        return Rules(policy=self.policy, on_uncheckable=self.on_uncheckable, on_escalate=self.on_escalate or ask)

    def name(self) -> str:
        """Return a name for these settings, the same in every process, in characters that LangGraph takes for nodes."""
        told = repr((self.policy.model_dump_json(), sorted(self.rails), self.window, self.release))
        digest = hashlib.sha256(told.encode()).hexdigest()[:6]
        guardian = re.sub(r"[^\w.@-]", "-", self.guardian.id)
        return f"GuardrailMiddleware[{guardian}-{digest}]"
