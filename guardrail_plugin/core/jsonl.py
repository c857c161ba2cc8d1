"""JSONL files that people write. Every fault of a file is a ``ConfigError`` that names the file and the line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from guardrail_plugin.core.errors import ConfigError


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and object of every line that is not blank.

    Raises:
        ConfigError: the file cannot be read, or a line is not UTF-8 or not a JSON object.
    """
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, _object(path, number, line.removeprefix(b"\xef\xbb\xbf"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise ConfigError(f"{path}, line {number}: not UTF-8") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path}, line {number}: not JSON") from None
    if not isinstance(row, dict):
        raise ConfigError(f"{path}, line {number}: not a JSON object")
    return row
