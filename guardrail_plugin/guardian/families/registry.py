"""The families that there are: the library's, and those that other packages register."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points

from guardrail_plugin.core.errors import ConfigError, did_you_mean
from guardrail_plugin.guardian.families.classifier import CLASSIFIER, DUOGUARD, HARMAUG, PROMPT_GUARD, is_classifier
from guardrail_plugin.guardian.families.granite import GRANITE
from guardrail_plugin.guardian.families.llama_guard import LLAMA_GUARDS
from guardrail_plugin.guardian.families.policy import POLICY
from guardrail_plugin.guardian.families.protocol import Checkpoint, FamilyKind
from guardrail_plugin.guardian.families.qwen3guard import QWEN3GUARD
from guardrail_plugin.guardian.families.shieldgemma import SHIELDGEMMA
from guardrail_plugin.guardian.families.wildguard import WILDGUARD

PLUGIN_GROUP = "guardrail_plugin.families"
_log = logging.getLogger(__name__)

_BUILT_IN = (
    *LLAMA_GUARDS, QWEN3GUARD, SHIELDGEMMA, WILDGUARD, GRANITE, POLICY, HARMAUG, DUOGUARD, PROMPT_GUARD, CLASSIFIER,
)  # fmt: skip


def family_names() -> tuple[str, ...]:
    """Return the names that ``family=`` accepts, plugins included. Imports no plugin."""
    return (*(kind.name for kind in _BUILT_IN), *(point.name for point in _plugins()))


def family_kind(name: str) -> FamilyKind:
    """Return the family of this name.

    Raises:
        ConfigError: there is none, or the plugin that registers it is broken.
    """
    for kind in _BUILT_IN:
        if kind.name == name:
            return kind
    for point in _plugins():
        if point.name == name:
            return _load(point)
    raise ConfigError(f"no guard family {name!r}{did_you_mean(name, family_names())}; there are {_listed()}")


def recognise(checkpoint: Checkpoint) -> FamilyKind:
    """Return the family that a checkpoint belongs to.

    Raises:
        ConfigError: none or several recognise it; the message says how to name the family.
    """
    found = [kind for kind in (*_BUILT_IN, *_working_plugins()) if kind.recognises(checkpoint)]
    if not found and is_classifier(checkpoint):
        return CLASSIFIER
    if len(found) == 1:
        return found[0]
    what = f"is claimed by {', '.join(kind.name for kind in found)}" if found else "belongs to no family that we know"
    raise ConfigError(f"{checkpoint.model_id!r} {what}: say which with family=; there are {_listed()}")


def _listed() -> str:
    return ", ".join(family_names())


def _plugins() -> Iterator[EntryPoint]:
    taken = {kind.name for kind in _BUILT_IN}
    for point in entry_points(group=PLUGIN_GROUP):
        if point.name in taken:
            _log.warning("the guard family %r of %s is ignored: the name is taken", point.name, point.value)
        else:
            yield point


def _working_plugins() -> Iterator[FamilyKind]:
    for point in _plugins():
        try:
            yield _load(point)
        except ConfigError as error:  # noqa: PERF203 - one broken plugin must not hide the others
            _log.warning("%s", error)


def _load(point: EntryPoint) -> FamilyKind:
    try:
        kind = point.load()
    except Exception as error:
        raise ConfigError(f"the guard family {point.name!r} of {point.value} cannot be imported: {error}") from error
    if not isinstance(kind, FamilyKind):
        raise ConfigError(f"{point.value} is no FamilyKind, so there is no guard family {point.name!r}")
    return kind
