"""A guardian described in a TOML file: one model with its options, an ensemble, or a cascade of such."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from guardrail_plugin.assembly.loading import load_guardian
from guardrail_plugin.assembly.wanted import Wanted
from guardrail_plugin.core.dtype import Dtype
from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.settings import explained, read_toml
from guardrail_plugin.guardian.cascade import CascadeGuardian, OnSecondFailure
from guardrail_plugin.guardian.ensemble import EnsembleGuardian
from guardrail_plugin.guardian.families.protocol import FamilyOptions
from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.guardian.responding import Responses
from guardrail_plugin.pool import InferencePool

_UNNAMED = ""
_RISK = Field(ge=0, le=1)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Described(_Strict):
    """One guardian. Every key is an argument of ``Guardian.load``; none at all is the embedded guardian.

    Attributes:
        policy_file: the family ``policy``'s written policy, beside the TOML file unless it says where.
        labels: of a classifier; ``""`` is harm without a code.
        ensemble, cascade: instead of a model.
    """

    model: str | None = None
    revision: str | None = None
    family: str | None = None
    base: str | None = None
    base_revision: str | None = None
    dtype: Dtype = "auto"
    hazards: tuple[str, ...] | None = None
    policy_file: Path | None = None
    policy_text: str | None = Field(default=None, repr=False)
    labels: dict[str, str] | None = None
    strictness: Annotated[float, _RISK] | None = None
    max_windows: Annotated[int, Field(ge=1)] = 64
    offline: bool = False
    responses: Responses = "model"
    self_test: bool = True
    warm_up: bool = False
    ensemble: DescribedEnsemble | None = None
    cascade: DescribedCascade | None = None


class DescribedEnsemble(_Strict):
    """Several guardians that all judge every text."""

    members: tuple[Described, ...]
    combine: Literal["max", "mean", "min"] = "max"


class DescribedCascade(_Strict):
    """A cheap guardian, and a second one where it is unsure."""

    cheap: Described = Field(default_factory=lambda: Described())
    second: Described
    band: tuple[Annotated[float, _RISK], Annotated[float, _RISK]] = (0.1, 0.9)
    on_second_failure: OnSecondFailure = "error"


Described.model_rebuild()  # its tables are defined after it


def load_described(file: Path, *, pool: InferencePool | None = None) -> GuardianProtocol:
    """Load what a file describes; see ``Guardian.from_toml``."""
    known = {*Described.model_fields, *DescribedCascade.model_fields, *DescribedEnsemble.model_fields}
    try:
        described = Described(**read_toml(file, what="guardian file"))
    except ValidationError as error:
        raise ConfigError(f"{file}: {explained(error, lambda _: known)}") from None
    return _make(described, folder=file.parent, pool=pool)


def _make(described: Described, *, folder: Path, pool: InferencePool | None) -> GuardianProtocol:
    ensemble, cascade = described.ensemble, described.cascade
    if (ensemble or cascade) and len(described.model_fields_set) > 1:
        named = ", ".join(sorted(described.model_fields_set))
        raise ConfigError(f"an ensemble or a cascade stands alone; found {named}")
    if ensemble is not None:
        members = [_make(one, folder=folder, pool=pool) for one in ensemble.members]
        return EnsembleGuardian(members, combine=ensemble.combine)
    if cascade is not None:
        cheap, second = (_make(one, folder=folder, pool=pool) for one in (cascade.cheap, cascade.second))
        return CascadeGuardian(cheap, second, band=cascade.band, on_second_failure=cascade.on_second_failure)
    return _load(described, folder=folder, pool=pool)


def _load(described: Described, *, folder: Path, pool: InferencePool | None) -> GuardianProtocol:
    labels = described.labels
    options = FamilyOptions(
        hazards=described.hazards,
        policy_text=_policy_text(described, folder),
        labels=None if labels is None else {name: None if code == _UNNAMED else code for name, code in labels.items()},
        strictness=described.strictness,
    )
    wanted = Wanted(
        model=described.model,
        revision=described.revision,
        base=described.base,
        base_revision=described.base_revision,
        family=described.family,
        options=options,
        offline=described.offline,
        dtype=described.dtype,
    )
    return load_guardian(
        wanted,
        pool=pool,
        max_windows=described.max_windows,
        responses=described.responses,
        self_test=described.self_test,
        warm_up=described.warm_up,
    )


def _policy_text(described: Described, folder: Path) -> str | None:
    if described.policy_file is None:
        return described.policy_text
    if described.policy_text is not None:
        raise ConfigError("policy_file and policy_text say the same thing twice; keep one")
    file = folder / described.policy_file
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the written policy {file}: {type(error).__name__}") from None
