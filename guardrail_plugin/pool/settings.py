"""Check what a pool is made with."""

from __future__ import annotations

import math
from collections.abc import Sequence

from guardrail_plugin.core.errors import ConfigError, did_you_mean

AUTO_DEVICE = "auto"
"""Handed to the factories where the caller names no device: they know what the machine has, the pool does not."""


def positive(**settings: int) -> None:
    """Check counts.

    Raises:
        ConfigError: one is not an integer of at least 1.
    """
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}")


def seconds(*, name: str, value: float) -> float:
    """Check a duration that may be zero.

    Raises:
        ConfigError: it is negative or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise ConfigError(f"{name} must be a finite number of seconds, 0 or more, got {value!r}")
    return float(value)


def choice(*, name: str, value: str, known: Sequence[str]) -> None:
    """Check a word.

    Raises:
        ConfigError: it is none of the known ones.
    """
    if value not in known:
        raise ConfigError(f"{name} must be one of {', '.join(known)}, got {value!r}{did_you_mean(str(value), known)}")


def device_names(devices: Sequence[str] | None, replicas: int) -> list[str]:
    """Return one device name per slot.

    Raises:
        ConfigError: the list is empty, or is a plain string.
    """
    if isinstance(devices, str):
        raise ConfigError(f"devices is a list: devices=[{devices!r}]")
    names = [AUTO_DEVICE] if devices is None else list(devices)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"devices must name at least one device, for example ['cpu'], got {devices!r}")
    return [name for name in names for _ in range(replicas)]
