"""Checks that a wrapper makes once, when it is built, so that a mistake never waits for the first request."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from langchain_core.runnables import Runnable

from guardrail_plugin.core.errors import ConfigError, did_you_mean
from guardrail_plugin.core.policy import OnFailure, Policy, is_path
from guardrail_plugin.flow import OnEscalate, Release, Rules, Window, WindowSetting
from guardrail_plugin.guardian.protocol import GuardianProtocol, taxonomy_of
from guardrail_plugin.runnables.answers import OutputText
from guardrail_plugin.runnables.calls import Calls
from guardrail_plugin.runnables.input_keys import InputKey, declared_by
from guardrail_plugin.runnables.output import OutputKind, output_kind
from guardrail_plugin.runnables.output_stage import OutputStage
from guardrail_plugin.runnables.stage import InputStage, OnBlock
from guardrail_plugin.runnables.verdict_only import VerdictOnly

GuardRail: TypeAlias = Literal["input", "output"]
"""The rails that ``guard()`` puts around a chain."""

_GUARDIAN_METHODS = ("check_many", "acheck_many", "respond", "arespond")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What ``guard()`` takes, as it takes it."""

    guardian: GuardianProtocol
    policy: Policy | None
    rails: Sequence[GuardRail]
    input_key: InputKey | None
    output_type: object
    output_text: OutputText | None
    window: WindowSetting
    release: Release
    overlap: bool
    on_block: OnBlock | None
    on_uncheckable: OnFailure
    on_escalate: OnEscalate | None
    context_turns: int


def build_calls(runnable: Runnable[Any, Any], settings: Settings) -> Calls:
    """Check all settings and build the rails.

    Raises:
        ConfigError: a setting is wrong; the message names it.
    """
    check_guardian(settings.guardian)
    check_word("on_uncheckable", settings.on_uncheckable, get_args(OnFailure))
    check_word("release", settings.release, get_args(Release))
    if not isinstance(runnable, Runnable):
        raise ConfigError(f"runnable must be a Runnable, got {type(runnable).__name__}")
    key, turns = settings.input_key, settings.context_turns
    if key is not None and not isinstance(key, str) and not callable(key):
        raise ConfigError(f"input_key must be a key or a function, got {type(key).__name__}")
    if not isinstance(turns, int) or turns < 0:
        raise ConfigError(f"context_turns must be 0 or more, got {turns!r}")
    for name in ("output_text", "on_escalate"):
        function = getattr(settings, name)
        if function is not None and not callable(function):
            raise ConfigError(f"{name} must be a function, got {type(function).__name__}")
    window = Window(settings.window)
    rails = check_rails(settings.rails)
    policy = effective_policy(checked_policy(settings.policy, settings.guardian), settings.on_block)
    rules = Rules(
        policy=policy,
        on_uncheckable=settings.on_uncheckable,
        on_escalate=settings.on_escalate,
        respond=not isinstance(settings.on_block, VerdictOnly),
    )
    kind = safeguard_kind(runnable, output_type=settings.output_type, policy=policy, on_block=settings.on_block)
    if settings.overlap and "input" not in rails:
        raise ConfigError("overlap=True runs the chain beside the input rail, and rails has no 'input'")
    output = None
    if "output" in rails:
        if kind is None and settings.output_text is None:
            raise ConfigError(
                f"cannot tell what {runnable.get_name()} returns, so its answers cannot be checked; pass "
                "output_type=str or output_type=AIMessage, or output_text=function(output)"
            )
        output = OutputStage(
            guardian=settings.guardian,
            rules=rules,
            kind=kind,
            on_block=settings.on_block,
            output_text=settings.output_text,
            window=window,
            release=settings.release,
        )
    return Calls(
        runnable=runnable,
        input=InputStage(
            guardian=settings.guardian,
            rules=rules,
            kind=kind,
            input_key=key,
            on_block=settings.on_block,
            context_turns=turns,
            declared=declared_by(runnable),
            on="input" in rails,
        ),
        output=output,
        overlap=settings.overlap,
    )


def check_rails(rails: object) -> tuple[GuardRail, ...]:
    """Return the rails of a wrapper.

    Raises:
        ConfigError: there is none, or one is unknown.
    """
    if isinstance(rails, str) or not isinstance(rails, Sequence) or not rails:
        raise ConfigError(f"rails must hold 'input', 'output' or both, got {rails!r}")
    known: tuple[GuardRail, ...] = get_args(GuardRail)
    for rail in rails:
        check_word("rails", rail, known)
    return tuple(rail for rail in known if rail in rails)


def check_guardian(guardian: object) -> None:
    """Refuse what cannot judge.

    Raises:
        ConfigError: a class instead of an instance, or an object without a guardian's methods.
    """
    if isinstance(guardian, type):
        raise ConfigError(f"guardian is the class {guardian.__name__}; pass an instance")
    missing = [name for name in _GUARDIAN_METHODS if not callable(getattr(guardian, name, None))]
    if missing:
        raise ConfigError(f"guardian={type(guardian).__name__} has no {', '.join(missing)}")


def checked_policy(policy: object, guardian: GuardianProtocol) -> Policy:
    """Return the policy, or the default one.

    Raises:
        ConfigError: it is none, or has a rule for a hazard that the guardian cannot name.
    """
    if policy is None:
        return Policy()
    if not isinstance(policy, Policy):
        path = isinstance(policy, Path) or (isinstance(policy, str) and is_path(policy))
        how = f"write Policy.from_toml(Path({str(policy)!r}))" if path else "read files with Policy.from_toml"
        raise ConfigError(f"policy must be a Policy, got {type(policy).__name__}; {how}")
    return policy.check_codes(taxonomy_of(guardian)) if policy.hazards else policy


def effective_policy(policy: Policy, on_block: OnBlock | None) -> Policy:
    """Return the policy with the wrapper's own ``on_block`` written into it.

    Raises:
        ConfigError: ``on_block`` is of the wrong kind.
    """
    if on_block is None or on_block == policy.on_block:
        return policy
    if callable(on_block):
        if inspect.iscoroutinefunction(on_block):
            raise ConfigError("on_block must be a plain function: it also runs in sync calls")
        return policy.model_copy(update={"on_block": "respond"})
    check_word("on_block", on_block, ("respond", "raise"))
    return policy.model_copy(update={"on_block": on_block})


def check_word(setting: str, word: object, known: tuple[str, ...]) -> None:
    """Refuse a word that a setting does not have.

    Raises:
        ConfigError: names the setting, the word and the nearest known one.
    """
    if word not in known:
        near = did_you_mean(word, known) if isinstance(word, str) else ""
        raise ConfigError(f"{setting}={word!r} is none of {', '.join(known)}{near}")


def safeguard_kind(
    runnable: Runnable[Any, Any], *, output_type: object, policy: Policy, on_block: OnBlock | None
) -> OutputKind | None:
    """Settle which type a safeguard response takes. ``None``: unknown, and none is needed: blocks raise or ``on_block``
    makes it.

    Raises:
        ConfigError: a response is needed and the chain's output type is not known to be str or a message.
    """
    kind = output_kind(runnable, output_type)
    if kind is None and not callable(on_block) and policy.on_block != "raise":
        raise ConfigError(
            f"cannot tell what {runnable.get_name()} returns, so a safeguard response has no type to take; pass "
            "output_type=str or output_type=AIMessage, or on_block='raise', or on_block=function(verdict, response)"
        )
    return kind
