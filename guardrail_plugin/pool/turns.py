"""What a slot is told to do next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from guardrail_plugin.pool.jobs import AnyJob, GenerateJob, ScoreJob


@dataclass(frozen=True, slots=True)
class ScoreTurn:
    """Score this batch. ``backlog``: others were left waiting."""

    jobs: list[ScoreJob]
    backlog: bool


@dataclass(frozen=True, slots=True)
class StartTurn:
    """Prefill this batch and keep its decode."""

    jobs: list[GenerateJob]


@dataclass(frozen=True, slots=True)
class StepTurn:
    """Advance one of the decodes in progress."""


@dataclass(frozen=True, slots=True)
class ExpireTurn:
    """Tell these that their deadline has passed."""

    jobs: list[AnyJob]


@dataclass(frozen=True, slots=True)
class TidyTurn:
    """Close the replicas that are unwanted here, as after every turn."""


Turn: TypeAlias = ScoreTurn | StartTurn | StepTurn | ExpireTurn | TidyTurn
