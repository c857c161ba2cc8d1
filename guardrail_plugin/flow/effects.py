"""What a rail asks of the world, and what it is told. Values only: nothing in here does I/O."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import GuardrailError
from guardrail_plugin.core.verdict import Verdict
from guardrail_plugin.guardian.protocol import CheckOutcome

T = TypeVar("T")

OnEscalate: TypeAlias = Callable[[Verdict, Check], str | Awaitable[str]]
"""Asks a person: ``"allow"``, ``"block"``, or the text that goes on instead. What is none of these blocks.

May be async; then only async calls can use it. A plain function runs in a thread where the call is async.
"""


@dataclass(frozen=True, slots=True)
class Classify:
    """Ask the guardian for a verdict. Answer: a ``Verdict``, or the error that stands in its place."""

    check: Check
    timeout_s: float


@dataclass(frozen=True, slots=True)
class ClassifyMany:
    """Ask the guardian for several verdicts at once. Answer: a ``Judged`` with one outcome for each check."""

    checks: tuple[Check, ...]
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Judged:
    """The answer to ``ClassifyMany``, in its order."""

    outcomes: tuple[CheckOutcome, ...]


@dataclass(frozen=True, slots=True)
class Respond:
    """Ask the responder for a safeguard response. Answer: its text, or the error that stands in its place."""

    check: Check
    verdict: Verdict | None
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Escalate:
    """Ask a person, who has all the time they need. Answer: what ``ask`` returned, which should be text."""

    check: Check
    verdict: Verdict
    ask: OnEscalate = field(repr=False)


@dataclass(frozen=True, slots=True)
class Told:
    """The answer to ``Escalate``: whatever the callback returned."""

    answer: object = field(repr=False)


Effect: TypeAlias = Classify | ClassifyMany | Respond | Escalate
Answer: TypeAlias = Verdict | GuardrailError | str | Judged | Told

Steps: TypeAlias = Generator[Effect, Answer, T]
"""One request's way through a rail: yields effects, is sent answers, returns an outcome."""
