"""A small language model stands guard in front of any LangChain chain.

    from guardrail_plugin import Guardian, InferencePool, guard

    with InferencePool() as pool:
        guardian = Guardian.load(pool=pool)
        safe = guard(prompt | model | parser, guardian=guardian)
        safe.invoke({"question": "..."})

Importing this package loads neither torch nor transformers; names are resolved when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from guardrail_plugin._version import __version__

if TYPE_CHECKING:
    from guardrail_plugin.core.conversation import Check, Message
    from guardrail_plugin.core.errors import (
        BlockedError,
        ChainError,
        ConfigError,
        GuardianError,
        GuardianTimeout,
        GuardrailError,
        InferenceError,
        InputError,
        MissingDependencyError,
        ModelNotFoundError,
        PoolClosed,
        PoolError,
        PoolOverloaded,
        ReplicaDead,
        SoftPromptMismatch,
        VerdictParseError,
    )
    from guardrail_plugin.core.hazards import MLCOMMONS, Hazard, Taxonomy
    from guardrail_plugin.core.policy import HazardRule, Policy, RailRule
    from guardrail_plugin.core.verdict import Verdict
    from guardrail_plugin.dro.chat_model import SoftPromptChatModel
    from guardrail_plugin.guardian.cache import CachedGuardian
    from guardrail_plugin.guardian.guardian import Guardian
    from guardrail_plugin.pool import InferencePool
    from guardrail_plugin.runnables import (
        GuardedChatModel,
        GuardedDocuments,
        GuardedRunnable,
        GuardedTool,
        ToolBlockedError,
        ToolPolicy,
        guard,
        guard_documents,
        guard_model,
        guard_tool,
    )

_HOMES = {
    "guardrail_plugin.core.conversation": ("Check", "Message"),
    "guardrail_plugin.core.errors": (
        "BlockedError",
        "ChainError",
        "ConfigError",
        "GuardianError",
        "GuardianTimeout",
        "GuardrailError",
        "InferenceError",
        "InputError",
        "MissingDependencyError",
        "ModelNotFoundError",
        "PoolClosed",
        "PoolError",
        "PoolOverloaded",
        "ReplicaDead",
        "SoftPromptMismatch",
        "VerdictParseError",
    ),
    "guardrail_plugin.core.hazards": ("MLCOMMONS", "Hazard", "Taxonomy"),
    "guardrail_plugin.core.policy": ("HazardRule", "Policy", "RailRule"),
    "guardrail_plugin.core.verdict": ("Verdict",),
    "guardrail_plugin.dro.chat_model": ("SoftPromptChatModel",),
    "guardrail_plugin.guardian.cache": ("CachedGuardian",),
    "guardrail_plugin.guardian.guardian": ("Guardian",),
    "guardrail_plugin.pool": ("InferencePool",),
    "guardrail_plugin.runnables": (
        "GuardedChatModel",
        "GuardedDocuments",
        "GuardedRunnable",
        "GuardedTool",
        "ToolBlockedError",
        "ToolPolicy",
        "guard",
        "guard_documents",
        "guard_model",
        "guard_tool",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "MLCOMMONS",
    "BlockedError",
    "CachedGuardian",
    "ChainError",
    "Check",
    "ConfigError",
    "GuardedChatModel",
    "GuardedDocuments",
    "GuardedRunnable",
    "GuardedTool",
    "Guardian",
    "GuardianError",
    "GuardianTimeout",
    "GuardrailError",
    "Hazard",
    "HazardRule",
    "InferenceError",
    "InferencePool",
    "InputError",
    "Message",
    "MissingDependencyError",
    "ModelNotFoundError",
    "Policy",
    "PoolClosed",
    "PoolError",
    "PoolOverloaded",
    "RailRule",
    "ReplicaDead",
    "SoftPromptChatModel",
    "SoftPromptMismatch",
    "Taxonomy",
    "ToolBlockedError",
    "ToolPolicy",
    "Verdict",
    "VerdictParseError",
    "__version__",
    "guard",
    "guard_documents",
    "guard_model",
    "guard_tool",
]


def __getattr__(name: str) -> object:
    module = _HOME_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
