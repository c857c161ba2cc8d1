"""Files that are about to be written: their folders are made, and what goes wrong is told in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from guardrail_plugin.core.errors import ConfigError


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Write a file inside; its folder is made first.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from None
    except SafetensorError as error:  # what safetensors makes of an OSError
        raise ConfigError(f"cannot write {path}: {error}") from None


def require_writable(*paths: Path) -> None:
    """Find out whether files can be written before hours are spent on what goes into them. Leaves them as they are.

    Raises:
        ConfigError: the first that cannot.
    """
    for path in paths:
        with writing(path):
            is_new = not path.exists()
            path.open("ab").close()
            if is_new:
                path.unlink()
