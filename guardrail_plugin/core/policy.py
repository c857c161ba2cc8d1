"""Policy: from a verdict to an action. Readable from TOML; an unknown key is an error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.hazards import MLCOMMONS, Taxonomy
from guardrail_plugin.core.settings import explained, parse_toml, read_toml
from guardrail_plugin.core.verdict import Action, Rail, Verdict

Probability: TypeAlias = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
OnBlock: TypeAlias = Literal["respond", "raise"]
OnFailure: TypeAlias = Literal["block", "allow", "raise"]

Cause: TypeAlias = Literal["risk", "hazard", "truncated", "incomplete"]
"""What a policy acted on: the risk as a whole, one hazard with a threshold of its own, a text too long to judge, or a
verdict that lacks one of its guardians'."""

STRICTNESS: dict[Action, int] = {"allow": 0, "escalate": 1, "block": 2}


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a policy orders about a verdict, and why.

    Attributes:
        threshold: the risk at which the rule acts that decided: the hazard's own, or the rail's.
        cause: ``None``: nothing was met, and the action is ``"allow"``.
        hazard: whose threshold was reached, where the cause is ``"hazard"``.
    """

    action: Action
    threshold: float
    cause: Cause | None = None
    hazard: str | None = None


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HazardRule(_Strict):
    """How one hazard is treated.

    Attributes:
        action: what happens when it is met. ``"allow"`` takes the hazard out of the risk altogether.
        threshold: judge this hazard alone at this risk. ``None``: it counts towards the rail's total.
    """

    action: Action = "block"
    threshold: Probability | None = None


class RailRule(_Strict):
    """How one rail is treated: the action when its threshold is reached, and that threshold."""

    action: Action = "block"
    threshold: Probability | None = None


class Policy(_Strict):
    """Rules that turn a verdict into an action. Immutable.

    Attributes:
        version: free text that is written into traces, audit lines and cache keys.
        threshold: risk at which every rail acts. ``None``: the guardian's calibrated threshold of that rail.
        rails: exceptions per rail.
        hazards: exceptions per hazard code.
        on_block: ``"respond"`` gives the caller a safeguard response, ``"raise"`` a ``BlockedError``.
        on_failure: what happens when no verdict can be had. ``"block"`` is the default: closed.
        on_truncated: what happens to a text so long that only part of it was judged. What is blocked for its length
            alone is accused of no hazard.
        timeout_s: seconds a verdict may take, queueing included.
    """

    version: str = "default"
    threshold: Probability | None = None
    rails: dict[Rail, RailRule] = Field(default_factory=dict)
    hazards: dict[str, HazardRule] = Field(default_factory=dict)
    on_block: OnBlock = "respond"
    on_failure: OnFailure = "block"
    on_truncated: Action = "block"
    timeout_s: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 30.0

    def __init__(self, /, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise ConfigError(explained(error, _known_keys, whole="policy")) from None

    def action(self, verdict: Verdict) -> Action:
        """Return what to do about a verdict: the strictest of all rules that it meets."""
        return self.ruling(verdict).action

    def ruling(self, verdict: Verdict) -> Ruling:
        """Return what to do about a verdict, and which rule says so.

        A hazard with a threshold of its own is judged alone; the others are judged by their sum against the
        rail's threshold. That a text was too long is the cause only where nothing else was met. A verdict that lacks a
        member's blocks what it would let pass (cause ``"incomplete"``), unless ``on_failure`` is ``"allow"``.
        """
        ruling = self._alone(self.deciding(verdict))
        if verdict.incomplete and ruling.action == "allow" and self.on_failure != "allow":
            return replace(ruling, action="block", cause="incomplete")
        return ruling

    def deciding(self, verdict: Verdict) -> Verdict:
        """Return what a text is blocked for: the verdict or, where its rule is stricter, that of one of its members.

        It tells the member's hazards and risk; who judged, and how much, stays that of the whole.
        """

        def rank(one: Verdict) -> tuple[int, bool]:
            ruling = self._alone(one)
            return STRICTNESS[ruling.action], ruling.cause != "truncated"

        found = max((verdict, *verdict.members), key=rank)
        hazard = self._acted_on(found)
        if found is verdict and hazard == verdict.hazard:
            return verdict
        return replace(
            found,
            hazard=hazard,
            members=verdict.members if found is verdict else (),
            guardian_id=verdict.guardian_id,
            seconds=verdict.seconds,
            windows=verdict.windows,
            incomplete=verdict.incomplete,
            stand_in=verdict.stand_in,
        )

    def _alone(self, verdict: Verdict) -> Ruling:
        ruling = max(self._met(verdict), key=lambda one: STRICTNESS[one.action])
        if not verdict.truncated or STRICTNESS[self.on_truncated] <= STRICTNESS[ruling.action]:
            return ruling
        return replace(ruling, action=self.on_truncated, cause=ruling.cause or "truncated")

    def _met(self, verdict: Verdict) -> Iterator[Ruling]:
        threshold = self.threshold_for(verdict)
        yield Ruling("allow", threshold)
        pooled = verdict.risk
        for code, rule in self.hazards.items():
            share = verdict.hazards.get(code, 0.0)
            if rule.action == "allow" or rule.threshold is not None:
                pooled -= share
            if rule.threshold is not None and share >= rule.threshold:
                yield Ruling(rule.action, rule.threshold, "hazard", code)
        if max(pooled, 0.0) >= threshold:
            yield Ruling(self._pooled_action(verdict), threshold, "risk")

    def threshold_for(self, verdict: Verdict) -> float:
        """Return the risk at which this verdict's rail acts: by the rail's rule, else the policy, else the guardian."""
        rule = self.rails.get(verdict.rail)
        if rule is not None and rule.threshold is not None:
            return rule.threshold
        return verdict.threshold if self.threshold is None else self.threshold

    def _acted_on(self, verdict: Verdict) -> str | None:
        """Return the hazard for which a verdict is acted on; the likeliest one where it is not."""
        ruling = self._alone(verdict)
        if ruling.hazard is not None:
            return ruling.hazard
        return (self._likeliest(verdict) or verdict.hazard) if ruling.cause == "risk" else verdict.hazard

    def _likeliest(self, verdict: Verdict) -> str | None:
        """Return the likeliest hazard of those that are judged by their sum."""
        counted = {
            code: p
            for code, p in verdict.hazards.items()
            if code not in self.hazards
            or (self.hazards[code].threshold is None and self.hazards[code].action != "allow")
        }
        return max(counted, key=counted.__getitem__, default=None)

    def _pooled_action(self, verdict: Verdict) -> Action:
        rail = self.rails.get(verdict.rail, RailRule())
        top = self._likeliest(verdict)
        rule = self.hazards.get(top) if top is not None else None
        return rail.action if rule is None else rule.action

    def check_codes(self, taxonomy: Taxonomy = MLCOMMONS) -> Policy:
        """Return self if every hazard code is in the taxonomy.

        Raises:
            ConfigError: a code is unknown; the message names the nearest.
        """
        for code in self.hazards:
            taxonomy[code]
        return self

    @classmethod
    def from_toml(cls, source: str | Path, *, taxonomy: Taxonomy = MLCOMMONS) -> Policy:
        """Read a policy from a TOML file (``Path``) or from TOML text (``str``).

        Raises:
            ConfigError: the file cannot be read, is not TOML, has an unknown key or a value out of range.
        """
        if isinstance(source, str) and is_path(source):
            raise ConfigError(f"{source!r} is read as TOML text; for the file write Path({source!r})")
        settings = (
            read_toml(source, what="policy file") if isinstance(source, Path) else parse_toml(source, name="policy")
        )
        return cls(**settings).check_codes(taxonomy)


def is_path(source: str) -> bool:
    """Tell whether text is the name of a TOML file rather than TOML."""
    return source.strip().endswith(".toml") and "\n" not in source.strip() and "=" not in source


def _known_keys(location: tuple[str, ...]) -> list[str]:
    if len(location) == 1:
        return list(Policy.model_fields)
    return list(HazardRule.model_fields if location[0] == "hazards" else RailRule.model_fields)
