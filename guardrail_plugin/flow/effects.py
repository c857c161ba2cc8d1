"""What a rail asks of the world, and what it is told. Values only: nothing in here does I/O."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import GuardrailError
from guardrail_plugin.core.verdict import Verdict

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Classify:
    """Ask the guardian for a verdict. Answer: a ``Verdict``, or the error that stands in its place."""

    check: Check
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Respond:
    """Ask the responder for a safeguard response. Answer: its text, or the error that stands in its place."""

    check: Check
    verdict: Verdict | None
    timeout_s: float


Effect: TypeAlias = Classify | Respond
Answer: TypeAlias = Verdict | GuardrailError | str

Steps: TypeAlias = Generator[Effect, Answer, T]
"""One request's way through a rail: yields effects, is sent answers, returns an outcome."""
