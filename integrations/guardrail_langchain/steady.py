"""What a paused node has judged stays: a graph that resumes judges anew, and must ask the same again, in that order."""

from __future__ import annotations

import copy
import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import TypeAlias

from langchain_core.runnables.config import ensure_config

from guardrail_plugin import Check, GuardrailError
from guardrail_plugin.guardian.protocol import CheckOutcome, GuardianProtocol
from guardrail_plugin.guardian.wrapped import WrappedGuardian

_MOST = 2048
"""Nodes that are remembered, about 1 kB each; the oldest go first."""

_Task: TypeAlias = tuple[str, str]
"""Thread and checkpoint namespace, which names the node's one task: the same before and after its pause."""

_Judged: TypeAlias = dict[bytes, CheckOutcome]

_ASKED = frozenset({"input", "tool_call"})
"""Rails whose nodes pause to ask. What others judge is asked about in a step of its own, or not by pausing."""


class Steady(WrappedGuardian):
    """Gives a node that paused to ask a person the same answers when it resumes. Keeps no text.

    In this process, and for that task of that thread alone: anywhere else a text is judged anew.
    """

    def __init__(self, guardian: GuardianProtocol) -> None:
        super().__init__(guardian)
        self._running: OrderedDict[_Task, _Judged] = OrderedDict()
        self._paused: OrderedDict[_Task, _Judged] = OrderedDict()
        self._lock = Lock()

    def keep(self) -> None:
        """Remember what the node that runs here has judged, since it is about to pause."""
        task = _task()
        if task is None:
            return
        with self._lock:
            judged = self._paused.setdefault(task, {})
            judged |= self._running.get(task, {})
            _bound(self._paused, task)

    def check_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Judge what has not been judged before the pause."""
        task = _task()
        known = self._known(task, checks)
        left = [check for i, check in enumerate(checks) if i not in known]
        try:
            given = self._guardian.check_many(left, timeout_s=timeout_s) if left else []
        except GuardrailError as error:
            given = [error] * len(left)
        return self._merged(task, checks, known, given)

    async def acheck_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Like ``check_many``. Cancellation: passes to the guardian."""
        task = _task()
        known = self._known(task, checks)
        left = [check for i, check in enumerate(checks) if i not in known]
        try:
            given = await self._guardian.acheck_many(left, timeout_s=timeout_s) if left else []
        except GuardrailError as error:
            given = [error] * len(left)
        return self._merged(task, checks, known, given)

    def _known(self, task: _Task | None, checks: Sequence[Check]) -> dict[int, CheckOutcome]:
        with self._lock:
            paused = dict(self._paused.get(task, {})) if task is not None else {}
        if not paused:
            return {}
        return {i: _bare(paused[key]) for i, check in enumerate(checks) if (key := _key(check)) in paused}

    def _merged(
        self,
        task: _Task | None,
        checks: Sequence[Check],
        known: Mapping[int, CheckOutcome],
        given: Sequence[CheckOutcome],
    ) -> list[CheckOutcome]:
        outcomes = list(given)
        for place in sorted(known):
            outcomes.insert(place, known[place])
        if task is None or len(outcomes) != len(checks):
            return outcomes
        pairs = zip(checks, outcomes, strict=True)
        if new := {_key(check): _bare(told) for check, told in pairs if check.rail in _ASKED}:
            with self._lock:
                self._running.setdefault(task, {}).update(new)
                _bound(self._running, task)
        return outcomes


def _task() -> _Task | None:
    """Return the task that runs here; ``None`` where no thread is kept, so that nothing can pause."""
    given = ensure_config().get("configurable", {})
    thread = given.get("thread_id")
    return None if thread is None else (str(thread), str(given.get("checkpoint_ns", "")))


def _bare(outcome: CheckOutcome) -> CheckOutcome:
    """Return an outcome without the frames in which an error was raised: they hold the text."""
    if not isinstance(outcome, GuardrailError):  # a verdict, or something else of a guardian that is broken
        return outcome
    told = copy.copy(outcome)
    told.__cause__ = told.__context__ = told.__traceback__ = None
    return told


def _bound(tasks: OrderedDict[_Task, _Judged], latest: _Task) -> None:
    tasks.move_to_end(latest)
    while len(tasks) > _MOST:
        tasks.popitem(last=False)


def _key(check: Check) -> bytes:
    turns = [(message.role, message.text) for message in check.context]
    return hashlib.sha256(json.dumps([check.rail, check.text, check.query, turns]).encode()).digest()
