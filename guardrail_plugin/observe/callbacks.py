"""Observe ``guard()``: the rails' own runs, as LangChain callbacks tell of them, become records."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler

from guardrail_plugin.core.errors import BlockedError, ChainError, GuardrailError
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.observe.event import Observer, RailEvent

_PREFIX = "guardrail."
_PAUSE = "GraphInterrupt"  # of LangGraph, which need not be there


class ObserverCallback(BaseCallbackHandler):
    """Pass to a guarded Runnable: ``safe.invoke(x, config={"callbacks": [ObserverCallback(observer)]})``.

    Does not: see text, so that audit lines made this way have no hash.
    """

    run_inline = True  # in async calls: a thread per rail would cost more than the record

    def __init__(
        self, observer: Observer, *, policy: Policy | None = None, request_id: str = "", caller: str = ""
    ) -> None:
        """Build it; the policy is only for what ``on_failure`` the records name, and the version of failed ones."""
        self._observer = observer
        self._policy = policy or Policy()
        self._request_id = request_id
        self._caller = caller
        self._started: dict[UUID, tuple[str, float]] = {}

    def on_chain_start(
        self, serialized: dict[str, Any], inputs: dict[str, Any], *, run_id: UUID, **kwargs: Any
    ) -> None:
        """Note when a rail begins."""
        name = kwargs.get("name")
        if isinstance(name, str) and name.startswith(_PREFIX):
            self._started[run_id] = (name.removeprefix(_PREFIX), monotonic())

    def on_chain_end(self, outputs: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """Tell of a rail's decision."""
        begun = self._started.pop(run_id, None)
        if begun is not None and isinstance(outputs, Mapping) and "action" in outputs:
            self._observer.rail(self._event(outputs, rail=begun[0], seconds=monotonic() - begun[1]))

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Tell of a rail that raised: nothing went on. A reader that left and a chain that failed are no decisions."""
        begun = self._started.pop(run_id, None)
        if begun is None:
            return
        fields: dict[str, Any] = {"policy_version": self._policy.version}
        beside = begun[0] == "output"  # what raises there may be the chain
        if type(error).__name__ == _PAUSE and not beside:
            fields["action"] = "escalate"
        elif isinstance(error, GuardrailError if beside else Exception) and not isinstance(error, ChainError):
            fields |= {"action": "block", "error": None if isinstance(error, BlockedError) else type(error).__name__}
        else:
            return
        self._observer.rail(self._event(fields, rail=begun[0], seconds=monotonic() - begun[1]))

    def _event(self, told: Mapping[str, Any], *, rail: str, seconds: float) -> RailEvent:
        return RailEvent(
            rail=str(told.get("rail", rail)),
            action=str(told["action"]),
            policy_version=str(told.get("policy_version", "")),
            on_failure=self._policy.on_failure,
            seconds=seconds,
            harmful=told.get("harmful"),
            risk=told.get("risk"),
            hazard=told.get("hazard"),
            hazards=told.get("hazards") or {},
            guardian_id=told.get("guardian_id"),
            guardian_seconds=told.get("seconds"),
            policy_threshold=told.get("policy_threshold"),
            acted_on=told.get("acted_on"),
            windows=int(told.get("windows") or 0),
            truncated=bool(told.get("truncated")),
            error=told.get("error"),
            released_characters=int(told.get("released_characters") or 0),
            request_id=self._request_id,
            caller=self._caller,
        )
