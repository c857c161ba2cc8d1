"""Which of several servers gets the next call: the one with least to do among those that are well. Time is injected."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from guardrail_plugin.core.errors import PoolOverloaded, ReplicaDead

TRIP_AFTER = 3
"""Failed calls in a row after which a server is left alone for a while; a refused connection does so at once."""

FIRST_PAUSE_S = 0.25
LAST_PAUSE_S = 15.0


@dataclass(slots=True, eq=False)
class Endpoint:
    """One server.

    Attributes:
        outstanding: calls in flight.
        failures: failed calls in a row.
        pauses: in a row; each is twice as long as the one before.
        open_until: left alone until then; ``None``: in use. After that one trial decides.
        busy_until: it asked to be called no sooner.
        on_trial: somebody is trying whether it is back.
        refuses: left alone because it does not serve the model to us.
    """

    url: str
    outstanding: int = 0
    failures: int = 0
    pauses: int = 0
    open_until: float | None = None
    busy_until: float = 0.0
    on_trial: bool = False
    refuses: bool = False


class Endpoints:
    """The servers of one model. Thread-safe."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.all = tuple(Endpoint(url) for url in urls)
        self._lock = threading.Lock()
        self._turn = 0

    def borrow(self, now: float, *, besides: Sequence[Endpoint] = ()) -> Endpoint:
        """Return the server that should take a call; pass it to ``give_back`` afterwards.

        ``besides``: those that have just failed this call; they are taken only if no other is left.

        Raises:
            PoolOverloaded: those that are well have asked to be left alone for a while.
            ReplicaDead: none is well.
        """
        with self._lock:
            well = [one for one in self.all if one.open_until is None]
            free = [one for one in well if one.busy_until <= now]
            fresh = [one for one in free if one not in besides] or free
            if fresh:
                self._turn += 1
                shift = self._turn % len(fresh)  # equals take turns
                chosen = min(fresh[shift:] + fresh[:shift], key=lambda one: one.outstanding)
                chosen.outstanding += 1
                return chosen
            if well:
                wait_s = min(one.busy_until for one in well) - now
                raise PoolOverloaded("every server of this model is overloaded", retry_after_s=wait_s)
            raise ReplicaDead(f"none of {len(self.all)} servers of this model is well")

    def give_back(self, endpoint: Endpoint) -> None:
        """End a call."""
        with self._lock:
            endpoint.outstanding -= 1

    def others(self, endpoint: Endpoint) -> bool:
        """Tell whether another server is well."""
        with self._lock:
            return any(one.open_until is None for one in self.all if one is not endpoint)

    def due(self, now: float) -> list[Endpoint]:
        """Return servers whose pause is over, for the caller to try; nobody else is told of them meanwhile."""
        with self._lock:
            due = [one for one in self.all if one.open_until is not None and one.open_until <= now and not one.on_trial]
            for one in due:
                one.on_trial = True
            return due

    def revived(self, endpoint: Endpoint) -> None:
        """Note that somebody is there. The next failure is one too many, until a call has been answered."""
        with self._lock:
            if endpoint.open_until is not None:
                endpoint.failures = TRIP_AFTER - 1
            endpoint.open_until = None
            endpoint.on_trial = endpoint.refuses = False

    def well(self, endpoint: Endpoint) -> None:
        """Note an answer."""
        with self._lock:
            endpoint.failures = endpoint.pauses = 0
            endpoint.open_until = None
            endpoint.on_trial = endpoint.refuses = False

    def failed(self, endpoint: Endpoint, now: float, *, gone: bool, refuses: bool = False) -> None:
        """Note a call without an answer. ``gone``: nobody is listening there, or it ``refuses`` every call."""
        with self._lock:
            endpoint.failures += 1
            if endpoint.open_until is not None and not endpoint.on_trial:
                return  # others have told already
            if gone or endpoint.on_trial or endpoint.failures >= TRIP_AFTER:
                endpoint.open_until = now + min(LAST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(endpoint.pauses, 16))
                endpoint.pauses += 1
                endpoint.refuses = refuses
            endpoint.on_trial = False

    def busy(self, endpoint: Endpoint, now: float, *, seconds: float) -> None:
        """Note that a server asked to be left alone for so long."""
        with self._lock:
            endpoint.busy_until = max(endpoint.busy_until, now + seconds)
