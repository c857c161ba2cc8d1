"""The verdict that a person was asked with stays: a graph that resumes judges anew, and must ask the same again."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

from guardrail_plugin import Check, Verdict
from guardrail_plugin.guardian.protocol import CheckOutcome, GuardianProtocol
from guardrail_plugin.guardian.wrapped import WrappedGuardian

_MOST = 4096
"""Verdicts kept in a process, about 1 kB each; the oldest go first."""


class Steady(WrappedGuardian):
    """Gives a text about which a person was asked the verdict that they were asked with. Keeps no text.

    In this process: after a restart the text is judged anew.
    """

    def __init__(self, guardian: GuardianProtocol) -> None:
        super().__init__(guardian)
        self._kept: OrderedDict[bytes, Verdict] = OrderedDict()
        self._lock = Lock()

    def keep(self, verdict: Verdict, check: Check) -> None:
        """Remember a verdict."""
        with self._lock:
            self._kept[_key(check)] = verdict
            self._kept.move_to_end(_key(check))
            while len(self._kept) > _MOST:
                self._kept.popitem(last=False)

    def check_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Judge what nobody was asked about."""
        known = self._known(checks)
        left = [check for i, check in enumerate(checks) if i not in known]
        return _merged(known, self._guardian.check_many(left, timeout_s=timeout_s) if left else [])

    async def acheck_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Like ``check_many``. Cancellation: passes to the guardian."""
        known = self._known(checks)
        left = [check for i, check in enumerate(checks) if i not in known]
        return _merged(known, await self._guardian.acheck_many(left, timeout_s=timeout_s) if left else [])

    def _known(self, checks: Sequence[Check]) -> dict[int, Verdict]:
        if not self._kept:
            return {}
        with self._lock:
            return {i: kept for i, check in enumerate(checks) if (kept := self._kept.get(_key(check))) is not None}


def _merged(known: dict[int, Verdict], given: Sequence[CheckOutcome]) -> list[CheckOutcome]:
    outcomes = list(given)
    for place in sorted(known):
        outcomes.insert(place, known[place])
    return outcomes


def _key(check: Check) -> bytes:
    turns = [(message.role, message.text) for message in check.context]
    return hashlib.sha256(json.dumps([check.rail, check.text, check.query, turns]).encode()).digest()
