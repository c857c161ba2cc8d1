"""The thread of one slot: takes turns from the queue until the pool is closed, and never leaves a waiter behind."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Mapping

from guardrail_plugin.core.errors import ReplicaDead
from guardrail_plugin.pool.decoding import Decodes
from guardrail_plugin.pool.isolation import Loss
from guardrail_plugin.pool.jobqueue import JobQueue
from guardrail_plugin.pool.protocol import Replica, ReplicaFactory
from guardrail_plugin.pool.scoring import score_batch
from guardrail_plugin.pool.shelf import ReplicaShelf
from guardrail_plugin.pool.slot import Slot
from guardrail_plugin.pool.turns import ExpireTurn, ScoreTurn, StartTurn, StepTurn, TidyTurn, Turn

_log = logging.getLogger(__name__)


class Worker:
    """One life of a slot's thread. Replicas are built, used and closed in it.

    Attributes:
        slot: the slot it serves.
        thread: the thread; a daemon, so that a hung device cannot keep the interpreter from exiting.
    """

    def __init__(
        self,
        *,
        slot: Slot,
        queue: JobQueue,
        factories: Mapping[str, ReplicaFactory],
        clock: Callable[[], float],
        stop: threading.Event,
        on_death: Callable[[Slot], None],
        on_build: Callable[[Slot, str], None],
    ) -> None:
        self.slot = slot
        self.thread = threading.Thread(target=self._main, name=f"guardrail-pool-{slot.index}", daemon=True)
        self._queue = queue
        self._clock = clock
        self._on_death = on_death
        self._on_build = on_build
        self._shelf = ReplicaShelf(device=slot.device, factories=factories, stop=stop, make_room=self._make_room)
        self._decodes = Decodes(queue=queue, slot=slot, clock=clock)

    def _main(self) -> None:
        error: BaseException | None = None
        try:
            self._loop()
        except BaseException as caught:
            error = caught
        finally:
            try:
                if error is not None:
                    traceback.clear_frames(error.__traceback__)
                    self._queue.thread_died(self.slot, error)
                    _log.error("a pool thread died of %s", type(error).__name__)
                self._decodes.drop()
                self._shelf.close()
            finally:
                if error is not None:
                    self._on_death(self.slot)

    def _loop(self) -> None:
        while (turn := self._queue.next_turn(self.slot)) is not None:
            loss = self._play(turn)
            if loss is not None:
                self._bury(loss)
            self._tidy()
            self.slot.models = self._shelf.models
            self.slot.barren_deaths = 0

    def _play(self, turn: Turn) -> Loss | None:
        if isinstance(turn, ExpireTurn):
            for job in turn.jobs:
                job.expire()
            return None
        if isinstance(turn, TidyTurn):
            return None
        if isinstance(turn, StepTurn):
            self.slot.phase = "decoding"
            return self._decodes.step()
        replica = self._replica(turn)
        if replica is None:
            return None
        if isinstance(turn, ScoreTurn):
            self.slot.phase = "scoring"
            return score_batch(turn, replica, queue=self._queue, slot=self.slot, clock=self._clock)
        self.slot.phase = "decoding"
        return self._decodes.start([turn.jobs], replica)

    def _replica(self, turn: ScoreTurn | StartTurn) -> Replica | None:
        self.slot.phase = "building"
        model = turn.jobs[0].model
        known = model in self._shelf.models
        try:
            replica = self._shelf.get(model)
        except ReplicaDead as error:
            self._queue.replica_not_built(self.slot, turn.jobs, error=error.__cause__ or error)
            return None
        if not known:
            self._on_build(self.slot, model)
            self._queue.built(self.slot, model, nbytes=getattr(replica, "nbytes", 0))
            self.slot.measured(model, getattr(replica, "batch_tokens", 0))
        return replica

    def _tidy(self) -> None:
        """Close replicas whose memory others need, unless they are decoding."""
        for model in tuple(self.slot.unwanted):
            if not self._decodes.runs(model):
                self._close(model)

    def _make_room(self, model: str) -> None:
        """A replica did not fit into memory: close what can be closed before the next try."""
        self._queue.needs_room(self.slot, model)
        self._tidy()

    def _close(self, model: str) -> None:
        self._shelf.drop(model)
        self._queue.closed(self.slot, model)

    def _bury(self, loss: Loss) -> None:
        _log.warning("a replica on %s died of %s; it is replaced", self.slot.device, type(loss.error).__name__)
        loss.bystanders.extend(self._decodes.drop(loss.model))
        self._queue.replica_died(self.slot, loss)
        self._close(loss.model)
