"""Errors on the wire, as records of their fields: the two ends need not be of one version, nor trust pickles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from guardrail_plugin.core.errors import (
    ConfigError,
    GuardianTimeout,
    GuardrailError,
    InferenceError,
    PoolClosed,
    PoolOverloaded,
    ReplicaDead,
)

Kind: TypeAlias = Literal["overloaded", "timeout", "dead", "config", "inference"]


@dataclass(frozen=True, slots=True)
class Failed:
    """An error in place of an answer.

    Attributes:
        kind: which of our errors.
        message: its text, which never holds user text.
        seconds: when to retry, or the time limit.
    """

    kind: Kind
    message: str
    seconds: float = 0.0


def to_wire(error: BaseException) -> Failed:
    """Return the record of an error. Of foreign errors only the type is told."""
    if isinstance(error, PoolOverloaded):
        return Failed("overloaded", str(error), error.retry_after_s)
    if isinstance(error, GuardianTimeout):
        return Failed("timeout", str(error), error.timeout_s)
    if isinstance(error, (ReplicaDead, PoolClosed)):  # a closing host: another one may answer
        return Failed("dead", str(error))
    if isinstance(error, ConfigError):
        return Failed("config", str(error))
    return Failed("inference", str(error) if isinstance(error, InferenceError) else type(error).__name__)


def from_wire(failed: Failed) -> GuardrailError:
    """Return the error of a record."""
    if failed.kind == "overloaded":
        reason = failed.message.rpartition("; retry in ")[0] or "the fleet is overloaded"
        return PoolOverloaded(reason, retry_after_s=failed.seconds)
    if failed.kind == "timeout":
        return GuardianTimeout(failed.seconds)
    if failed.kind == "dead":
        return ReplicaDead(failed.message)
    if failed.kind == "config":
        return ConfigError(failed.message)
    return InferenceError(failed.message)
