"""Settings from TOML files: read, and told what is wrong with them in words that help."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from guardrail_plugin.core.errors import ConfigError, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path, *, what: str) -> dict[str, Any]:
    """Read a file of settings.

    Args:
        what: it is, for the error: ``"policy file"``.

    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the {what} {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    return parse_toml(text, name=str(path))


def parse_toml(text: str, *, name: str) -> dict[str, Any]:
    """Read settings.

    Raises:
        ConfigError: they are not TOML.
    """
    try:
        return tomllib.loads(text.removeprefix("\ufeff"))  # a byte order mark, as some Windows tools write it
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{name} is not valid TOML: {error}") from None


def explained(
    error: ValidationError, known: Callable[[tuple[str, ...]], Iterable[str]], *, whole: str = "settings"
) -> str:
    """Return what is wrong with settings: an unknown key with the one that was meant, a value out of range. No values.

    Args:
        known: from the place of an unknown key to the keys that there are.
        whole: what to call settings that are wrong as a whole.
    """
    lines = []
    for item in error.errors(include_url=False, include_input=False):
        place = tuple(str(part) for part in item["loc"] if part != "[key]")
        path = ".".join(place)
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown key {path!r}{did_you_mean(place[-1], known(place))}")
        else:
            lines.append(f"{path or whole}: {item['msg'].removeprefix('Value error, ')}")
    return "; ".join(lines)
