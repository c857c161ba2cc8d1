"""From a request to a job: what the caller asked for is checked here, once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from guardrail_plugin.core.errors import ConfigError, did_you_mean
from guardrail_plugin.pool.jobs import GenerateJob, ScoreJob
from guardrail_plugin.pool.protocol import GenerateRequest, ReplicaFactory, ScoreRequest
from guardrail_plugin.pool.tenancy import check_tenant, current_tenant

MAX_PRIORITY = 10
"""Priorities go from minus this to this. One level counts like one second of waiting (``lane.PRIORITY_STEP_S``)."""


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms requests run.

    Attributes:
        timeout_s: as the caller said it; for the error's message.
        deadline: absolute, on the pool's clock.
        priority: higher goes sooner.
        tenant: on whose account.
    """

    timeout_s: float | None
    deadline: float | None
    priority: int
    tenant: str = ""


class Intake:
    """Makes jobs."""

    def __init__(
        self,
        *,
        factories: Mapping[str, ReplicaFactory],
        clock: Callable[[], float],
        check: Callable[[], None],
        coalesce: bool = True,
    ) -> None:
        self._factories = factories
        self._clock = clock
        self._check = check
        self._coalesce = coalesce

    def terms(self, *, timeout_s: float | None, priority: int, tenant: str | None = None) -> Terms:
        """Start the clock for a request or a list. ``tenant=None``: the one whose turn ``on_behalf_of`` says it is.

        Raises:
            ConfigError: ``timeout_s`` is no number, ``priority`` is out of range, or ``tenant`` is no string.
            PoolClosed: this process is a forked child of the pool's.
        """
        self._check()
        if isinstance(priority, bool) or not isinstance(priority, int) or abs(priority) > MAX_PRIORITY:
            raise ConfigError(
                f"priority must be a whole number from {-MAX_PRIORITY} to {MAX_PRIORITY}, got {priority!r}"
            )
        account = current_tenant() if tenant is None else check_tenant(tenant)
        if timeout_s is None or timeout_s == math.inf:
            return Terms(None, None, priority, account)
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)) or not math.isfinite(timeout_s):
            raise ConfigError(f"timeout_s must be a number of seconds or None, got {timeout_s!r}")
        return Terms(timeout_s, self._clock() + timeout_s, priority, account)

    def check_model(self, model: str) -> None:
        """Raise ConfigError if the model is not registered; the message names the nearest that is."""
        if model not in self._factories:
            raise ConfigError(f"no model {model!r} is registered with this pool{did_you_mean(model, self._factories)}")

    def score(self, request: ScoreRequest, terms: Terms) -> ScoreJob:
        """Return the job of a score request."""
        self.check_model(request.model)
        return ScoreJob(
            model=request.model,
            kind="score",
            tokens=max(1, request.tokens),
            deadline=terms.deadline,
            timeout_s=terms.timeout_s,
            priority=terms.priority,
            tenant=terms.tenant,
            # Equal texts of different tenants run apart: else one could tell by the clock what another has asked.
            key=(terms.tenant, request) if self._coalesce else None,
            request=request,
        )

    def generate(self, request: GenerateRequest, terms: Terms) -> GenerateJob:
        """Return the job of a generate request.

        Raises:
            ConfigError: it asks for less than one token.
        """
        self.check_model(request.model)
        if request.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, got {request.max_new_tokens}")
        return GenerateJob(
            model=request.model,
            kind="generate",
            tokens=max(1, request.tokens),
            reserve=request.max_new_tokens,
            deadline=terms.deadline,
            timeout_s=terms.timeout_s,
            priority=terms.priority,
            tenant=terms.tenant,
            request=request,
        )
