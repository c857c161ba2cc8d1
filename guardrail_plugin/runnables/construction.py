"""Checks that a wrapper makes once, when it is built, so that a mistake never waits for the first request."""

from __future__ import annotations

import inspect
from typing import Any, get_args

from langchain_core.runnables import Runnable

from guardrail_plugin.core.errors import ConfigError, did_you_mean
from guardrail_plugin.core.policy import OnFailure, Policy
from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.runnables.output import OutputKind, output_kind
from guardrail_plugin.runnables.stage import InputStage, OnBlock
from guardrail_plugin.runnables.views import InputKey

_GUARDIAN_METHODS = ("check_many", "acheck_many", "respond", "arespond")


def build_stage(
    runnable: Runnable[Any, Any],
    *,
    guardian: GuardianProtocol,
    policy: Policy | None,
    input_key: InputKey | None,
    output_type: object,
    on_block: OnBlock | None,
    on_uncheckable: OnFailure,
    context_turns: int,
) -> InputStage:
    """Check all settings and build the rail.

    Raises:
        ConfigError: a setting is wrong; the message names it.
    """
    check_guardian(guardian)
    check_word("on_uncheckable", on_uncheckable, get_args(OnFailure))
    if not isinstance(runnable, Runnable):
        raise ConfigError(f"runnable must be a Runnable, got {type(runnable).__name__}")
    if input_key is not None and not isinstance(input_key, str) and not callable(input_key):
        raise ConfigError(f"input_key must be a key or a function, got {type(input_key).__name__}")
    if not isinstance(context_turns, int) or context_turns < 0:
        raise ConfigError(f"context_turns must be 0 or more, got {context_turns!r}")
    effective = effective_policy(policy, on_block)
    return InputStage(
        guardian=guardian,
        policy=effective,
        kind=safeguard_kind(runnable, output_type=output_type, policy=effective, on_block=on_block),
        input_key=input_key,
        on_block=on_block,
        on_uncheckable=on_uncheckable,
        context_turns=context_turns,
    )


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


def effective_policy(policy: Policy | None, on_block: OnBlock | None) -> Policy:
    """Return the policy with the wrapper's own ``on_block`` written into it.

    Raises:
        ConfigError: either is of the wrong kind.
    """
    if policy is not None and not isinstance(policy, Policy):
        raise ConfigError(f"policy must be a Policy, got {type(policy).__name__}; read files with Policy.from_toml")
    policy = policy or Policy()
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
    """Settle which type a safeguard response takes. ``None``: none is needed, blocks raise or ``on_block`` makes it.

    Raises:
        ConfigError: a response is needed and the chain's output type is not known to be str or a message.
    """
    kind = output_kind(runnable, output_type)
    if callable(on_block) or policy.on_block == "raise":
        return None
    if kind is None:
        raise ConfigError(
            f"cannot tell what {runnable.get_name()} returns, so a safeguard response has no type to take; pass "
            "output_type=str or output_type=AIMessage, or on_block='raise', or on_block=function(verdict, response)"
        )
    return kind
