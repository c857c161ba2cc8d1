"""What a caller asks to be loaded, before anything is looked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from guardrail_plugin.core.dtype import Dtype
from guardrail_plugin.guardian.families.protocol import FamilyOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A guardian's weights, what they stand on, and how they are asked; the arguments of ``Guardian.load``."""

    model: str | Path | None = None
    revision: str | None = None
    base: str | Path | None = None
    base_revision: str | None = None
    family: str | None = None
    options: FamilyOptions = field(default_factory=FamilyOptions)
    offline: bool = False
    dtype: Dtype = "auto"
