"""The replicas of one slot: built when first needed, in the slot's own thread, dropped when they die."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Mapping

import tenacity

from guardrail_plugin.core.errors import GuardrailError, ReplicaDead
from guardrail_plugin.pool.health import is_out_of_memory
from guardrail_plugin.pool.protocol import Decode, Replica, ReplicaFactory

_log = logging.getLogger(__name__)

_BUILD_ATTEMPTS = 3
_BUILD_PAUSE_S = 0.05  # doubled after each attempt


class ReplicaShelf:
    """Replicas by model, for one thread."""

    def __init__(
        self,
        *,
        device: str,
        factories: Mapping[str, ReplicaFactory],
        stop: threading.Event,
        make_room: Callable[[str], None],
    ) -> None:
        self._device = device
        self._make_room = make_room
        self._factories = factories
        self._stop = stop
        self._replicas: dict[str, Replica] = {}

    @property
    def models(self) -> tuple[str, ...]:
        """Models with a living replica."""
        return tuple(self._replicas)

    def get(self, model: str) -> Replica:
        """Return the model's replica; build it if there is none.

        A build that fails with an error that may pass is tried again; this library's own errors (no weights, a missing
        extra) do not pass.

        Raises:
            ReplicaDead: it cannot be built; the reason is chained.
        """
        if model not in self._replicas:
            attempts = tenacity.Retrying(
                stop=tenacity.stop_after_attempt(_BUILD_ATTEMPTS) | tenacity.stop_when_event_set(self._stop),
                wait=tenacity.wait_exponential(multiplier=_BUILD_PAUSE_S),
                retry=tenacity.retry_if_exception(_may_pass),
                sleep=tenacity.sleep_using_event(self._stop),
                before_sleep=lambda state: self._failed(model, state),
                reraise=True,
            )
            try:
                self._replicas[model] = attempts(self._factories[model], self._device)
            except BaseException as error:
                traceback.clear_frames(error.__traceback__)  # half-built weights hang on them
                raise no_replica(model, error) from error
        return self._replicas[model]

    def _failed(self, model: str, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if error is not None and is_out_of_memory(error):
            traceback.clear_frames(error.__traceback__)
            self._make_room(model)

    def drop(self, model: str) -> None:
        """Forget a dead replica."""
        replica = self._replicas.pop(model, None)
        if replica is not None:
            close_quietly(replica)

    def close(self) -> None:
        """Close and forget all."""
        for model in self.models:
            self.drop(model)


def close_quietly(thing: Replica | Decode) -> None:
    """Close a replica or a decode. What it raises helps nobody: nothing runs on it any more."""
    try:
        thing.close()
    except BaseException as error:
        _log.warning("closing a %s raised %s", type(thing).__name__, type(error).__name__)


def no_replica(model: str, error: BaseException | None) -> ReplicaDead:
    """Return the error for requests whose model has no working replica."""
    # Messages of this library's errors say what to do and hold no text; others may hold anything.
    reason = f" ({type(error).__name__}{f': {error}' if isinstance(error, GuardrailError) else ''})" if error else ""
    failure = ReplicaDead(f"no replica of {model!r} is working{reason}")
    failure.__cause__ = error
    return failure


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, Exception) and not isinstance(error, GuardrailError)
