"""What a guardian answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Rail: TypeAlias = Literal["input", "output", "tool_call", "tool_output", "document"]
"""A point where text is checked."""

Action: TypeAlias = Literal["allow", "block", "escalate"]
"""What a policy orders."""

RAILS: tuple[Rail, ...] = get_args(Rail)
ACTIONS: tuple[Action, ...] = get_args(Action)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A guardian's answer about one text. Holds no text.

    Attributes:
        harmful: ``risk >= threshold``.
        risk: probability, 0..1, that the text is harmful in any way.
        threshold: the guardian's calibrated threshold for this rail. A policy may set another.
        hazards: probability per hazard code; they sum to ``risk`` at most. Where a guardian judges each hazard alone,
            the likeliest has its own probability, each other one what is left, and ``members`` tell theirs.
        hazard: the most probable hazard's code, or ``None`` where the guardian names none.
        rail: where the text was checked.
        guardian_id: which guardian, with its weights' version.
        seconds: wall time from request to verdict, queueing included.
        windows: number of overlapping windows and views that were scored; the verdict is the worst of them.
        truncated: part of the text was not looked at (only with an explicit window budget; never silently).
        native_label: the guardian family's own label where it differs from ours.
        members: other verdicts that suffice to stop the text: on parts of it that tell of other hazards than its worst
            part, and of several guardians that are asked as one. A policy acts on the strictest.
        incomplete: one of them is missing: what this one lets pass has not been judged.
        stand_in: it takes the place of another guardian's that could not be had, for this call alone: caches do not
            keep it.
    """

    harmful: bool
    risk: float
    threshold: float
    hazards: Mapping[str, float]
    hazard: str | None
    rail: Rail
    guardian_id: str
    seconds: float = 0.0
    windows: int = 1
    truncated: bool = False
    native_label: str | None = None
    members: tuple[Verdict, ...] = ()
    incomplete: bool = False
    stand_in: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.risk <= 1.0:  # also refuses NaN
            raise ValueError(f"risk is a probability, got {self.risk!r}")
        if not 0.0 <= self.threshold <= 1.0:
            raise ValueError(f"a threshold is a probability, got {self.threshold!r}")

    def as_dict(self) -> dict[str, object]:
        """Return plain JSON types, for logs, traces and ``response_metadata``."""
        return {
            "harmful": self.harmful,
            "risk": round(self.risk, 6),
            "threshold": round(self.threshold, 6),
            "hazard": self.hazard,
            "hazards": {code: round(p, 6) for code, p in self.hazards.items()},
            "rail": self.rail,
            "guardian_id": self.guardian_id,
            "seconds": round(self.seconds, 6),
            "windows": self.windows,
            "truncated": self.truncated,
            "native_label": self.native_label,
        }
