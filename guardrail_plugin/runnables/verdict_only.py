"""What a caller's ``on_block`` is, told by its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.verdict import Verdict
from guardrail_plugin.runnables.stage import OnBlock


@dataclass(frozen=True, slots=True)
class VerdictOnly:
    """An ``on_block`` that makes the output from the verdict alone, so that no safeguard response is written for it."""

    make: Callable[[Verdict | None], Any]

    def __call__(self, verdict: Verdict | None, response: str) -> Any:
        """Return the chain's output."""
        return self.make(verdict)

    @classmethod
    def wrap(cls, on_block: OnBlock | Callable[[Verdict | None], Any] | None) -> OnBlock | None:
        """Return what a caller gave; a function of the verdict alone as one of these.

        Raises:
            ConfigError: it is async, or takes neither one argument nor two.
        """
        if on_block is None or isinstance(on_block, str) or not callable(on_block):
            return on_block
        if inspect.iscoroutinefunction(on_block):
            raise ConfigError("on_block must be a plain function: it also runs in sync calls")
        try:
            signature = inspect.signature(on_block)
        except ValueError:  # written in C: taken at its word
            return cast("OnBlock", on_block)
        if _takes(signature, 2):
            return cast("OnBlock", on_block)
        if _takes(signature, 1):
            return cls(cast("Callable[[Verdict | None], Any]", on_block))
        raise ConfigError("on_block must be a function of the verdict, or of the verdict and the response")


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True
