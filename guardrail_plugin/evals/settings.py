"""What a guardian's ``id`` leaves out and its answers depend on: stored answers of other settings are not reused."""

from __future__ import annotations

from guardrail_plugin.guardian.cascade import CascadeGuardian
from guardrail_plugin.guardian.ensemble import EnsembleGuardian
from guardrail_plugin.guardian.guardian import Guardian
from guardrail_plugin.guardian.protocol import GuardianProtocol


def judging_settings(guardian: GuardianProtocol) -> dict[str, object]:
    """Return what verdicts depend on, as JSON values; nothing of a guardian whose ``id`` is all there is to know."""
    if isinstance(guardian, Guardian):
        calibration = {rail: one.model_dump(mode="json") for rail, one in sorted(guardian.calibration.items())}
        return {"calibration": calibration, "base": guardian.base, "max_windows": guardian.max_windows}
    members = [judging_settings(member) for member in _members(guardian)]
    return {"members": members} if any(members) else {}


def responding_settings(guardian: GuardianProtocol) -> dict[str, object]:
    """Return what safeguard responses depend on beside the verdicts, as JSON values."""
    if isinstance(guardian, Guardian):
        responder = guardian.responder
        return {"responses": guardian.responses} | ({} if responder is None else {"responder": _described(responder)})
    members = [responding_settings(member) for member in _members(guardian)]
    return {"members": members} if any(members) else {}


def _described(responder: GuardianProtocol) -> dict[str, object]:
    return {"id": responder.id, **judging_settings(responder), **responding_settings(responder)}


def _members(guardian: GuardianProtocol) -> tuple[GuardianProtocol, ...]:
    if isinstance(guardian, EnsembleGuardian):
        return guardian.members
    return (guardian.cheap, guardian.second) if isinstance(guardian, CascadeGuardian) else ()
