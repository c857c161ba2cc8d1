"""What observers are told: one record per rail, one per request. Fields only; text is there for hashes, not shown."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.policy import OnFailure, Policy
from guardrail_plugin.flow import Outcome, describe

E = TypeVar("E")

logger = logging.getLogger("guardrail_plugin.observe")


@dataclass(frozen=True, slots=True, kw_only=True)
class RailEvent:
    """One rail's decision.

    Attributes:
        action: ``allow``, ``block``, ``escalate`` or ``edit``.
        hazards: probability per hazard code; empty where there is no verdict.
        error: why there is no verdict: the error's class.
        on_failure: what the policy orders then.
        seconds: wall time of the decision: checks, queueing and safeguard response.
        guardian_seconds: of that, until the verdict; ``None`` without one.
        policy_threshold: the risk at which the rule of the policy acts that decided.
        acted_on: ``"risk"``, a hazard's code, ``"truncated"``, ``"incomplete"``; ``None`` where nothing was met.
        windows: forward passes that the verdict took.
        released_characters: of a stream, what had left before the decision.
        request_id: ties the rails of one request together; empty outside requests.
        caller: name of the key, or of whoever else asked.
        checks: what was judged. For hashes; observers that show it must have been told to.
        ended_at_s: when it was decided, in seconds since the epoch.
    """

    rail: str
    action: str
    policy_version: str
    on_failure: OnFailure
    seconds: float
    harmful: bool | None = None
    risk: float | None = None
    hazard: str | None = None
    hazards: Mapping[str, float] = field(default_factory=dict)
    guardian_id: str | None = None
    guardian_seconds: float | None = None
    policy_threshold: float | None = None
    acted_on: str | None = None
    windows: int = 0
    truncated: bool = False
    error: str | None = None
    released_characters: int = 0
    request_id: str = ""
    caller: str = ""
    checks: tuple[Check, ...] = field(default=(), repr=False)
    ended_at_s: float = field(default_factory=time.time)

    @classmethod
    def of(
        cls,
        outcome: Outcome,
        *,
        policy: Policy,
        seconds: float,
        checks: Iterable[Check] = (),
        released_characters: int = 0,
        request_id: str = "",
        caller: str = "",
    ) -> RailEvent:
        """Make the record of an outcome."""
        told = describe(outcome, policy_version=policy.version)
        error, verdict, ruling = told["error"], outcome.verdict, outcome.ruling
        return cls(
            rail=outcome.rail,
            action=str(told["action"]),
            policy_version=policy.version,
            on_failure=policy.on_failure,
            seconds=seconds,
            error=error if isinstance(error, str) else None,
            released_characters=released_characters,
            request_id=request_id,
            caller=caller,
            checks=tuple(checks),
            harmful=None if verdict is None else verdict.harmful,
            risk=None if verdict is None else verdict.risk,
            hazard=None if verdict is None else verdict.hazard,
            hazards={} if verdict is None else verdict.hazards,
            guardian_id=None if verdict is None else verdict.guardian_id,
            guardian_seconds=None if verdict is None else verdict.seconds,
            policy_threshold=None if ruling is None else ruling.threshold,
            acted_on=None if ruling is None else ruling.hazard or ruling.cause,
            windows=0 if verdict is None else verdict.windows,
            truncated=verdict is not None and verdict.truncated,
        )

    def as_dict(self) -> dict[str, object]:
        """Return plain JSON types without any text: for logs and audit lines."""
        return {
            "rail": self.rail,
            "action": self.action,
            "harmful": self.harmful,
            "risk": None if self.risk is None else round(self.risk, 6),
            "hazard": self.hazard,
            "hazards": {code: round(p, 6) for code, p in self.hazards.items()},
            "policy_threshold": None if self.policy_threshold is None else round(self.policy_threshold, 6),
            "acted_on": self.acted_on,
            "guardian_id": self.guardian_id,
            "policy_version": self.policy_version,
            "seconds": round(self.seconds, 6),
            "windows": self.windows,
            "truncated": self.truncated,
            "error": self.error,
            "on_failure": self.on_failure,
            "released_characters": self.released_characters,
            "request_id": self.request_id,
            "caller": self.caller,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEvent:
    """One request to a server, when it has ended.

    Attributes:
        operation: what was asked for: ``chat``, ``responses``, ``moderations``, ...
        status: the HTTP status; 499: the client left.
        seconds: from the request's arrival to its last byte.
        first_chunk_s: of a stream, until the first byte of the answer left.
        upstream_s: time until the model behind began to answer.
        error: the code of the error that the client was told, if any.
        traceparent: the W3C trace context that came with the request.
        rails: its rails' records, in order.
    """

    operation: str
    status: int
    seconds: float
    started_at_s: float
    model: str = ""
    provider: str = ""
    streamed: bool = False
    first_chunk_s: float | None = None
    upstream_s: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    finish_reasons: tuple[str, ...] = ()
    error: str | None = None
    request_id: str = ""
    caller: str = ""
    traceparent: str = ""
    rails: tuple[RailEvent, ...] = ()


class Observer(Protocol):
    """Is told of every decision. Called on the request's own task: must not block, and keeps no text."""

    def rail(self, event: RailEvent) -> None:
        """Take note of a rail's decision."""

    def request(self, event: RequestEvent) -> None:
        """Take note of a finished request."""


class Observers:
    """Tells several observers. One that raises is logged and does no harm to the call or to the others."""

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self._observers = tuple(observers)

    def rail(self, event: RailEvent) -> None:
        """Tell all."""
        for observer in self._observers:
            _tell(observer, observer.rail, event)

    def request(self, event: RequestEvent) -> None:
        """Tell all."""
        for observer in self._observers:
            _tell(observer, observer.request, event)


def _tell(observer: Observer, hear: Callable[[E], None], event: E) -> None:
    try:
        hear(event)
    except Exception as error:
        # Its message may hold anything, so only its type is told.
        logger.error("the observer %s failed: %s", type(observer).__name__, type(error).__name__)
