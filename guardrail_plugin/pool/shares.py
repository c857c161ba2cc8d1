"""Equal shares for tenants: what each has been served. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from guardrail_plugin.pool.lane import Item

PRIORITY_STEP_TOKENS = 1024
"""Between tenants one level of priority is a head start of this many tokens: it comes sooner, it never gets more."""

MAX_TENANTS = 1024
"""Tenants that are remembered."""


class Shares:
    """Tokens served per tenant, as virtual time: who has had least goes next (start-time fair queueing).

    A tenant that was away or could not be served starts from where the least-served of the others is: nobody saves up.

    Source: Goyal, Vin, Cheng, "Start-time Fair Queueing" (SIGCOMM 1996).
    """

    def __init__(self, *, max_tenants: int = MAX_TENANTS) -> None:
        self._max_tenants = max_tenants
        self._floor = 0.0
        self._had: dict[str, float] = {}  # who is at the floor need not be in here

    def __len__(self) -> int:
        return len(self._had)

    def had(self, tenant: str) -> float:
        """Return what a tenant has been served."""
        return max(self._had.get(tenant, 0.0), self._floor)

    def turn(self, item: Item) -> float:
        """Return what the item's tenant has been served, less its head start: smaller goes first."""
        return self.had(item.tenant) - item.priority * PRIORITY_STEP_TOKENS

    def waiting(self, tenants: Iterable[str]) -> None:
        """Note who waits and could be served: they set the floor."""
        self._floor = max(self._floor, min(map(self.had, tenants)))

    def charge(self, tenant: str, tokens: int) -> None:
        """Note tokens served; negative: they were not served after all."""
        self._had[tenant] = self.had(tenant) + tokens
        if len(self._had) > self._max_tenants:
            self._forget()

    def _forget(self) -> None:
        # Those at the floor lose nothing, the next ones a debt of little more than one batch.
        dearest = sorted(self._had.items(), key=lambda entry: entry[1], reverse=True)[: self._max_tenants // 2]
        self._had = {tenant: had for tenant, had in dearest if had > self._floor}
