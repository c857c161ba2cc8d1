"""The threads of a pool: one worker per slot, one timekeeper. Replaces workers that die."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from guardrail_plugin.pool.jobqueue import JobQueue
from guardrail_plugin.pool.protocol import PlacedFactory, ReplicaFactory
from guardrail_plugin.pool.slot import Slot
from guardrail_plugin.pool.worker import Worker

_log = logging.getLogger(__name__)

# Threads in a row that died before they finished one turn, after which their slot is given up.
_RETIRE_AFTER = 5


class Engine:
    """Started once, joined once."""

    def __init__(
        self,
        *,
        queue: JobQueue,
        factories: Mapping[str, ReplicaFactory],
        clock: Callable[[], float],
        grows: bool = False,
    ) -> None:
        self._queue = queue
        self._factories = factories
        self._clock = clock
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._to_grow = set(range(len(queue.slots))) if grows else set()

    def start(self) -> None:
        """Start all threads."""
        timekeeper = threading.Thread(target=self._keep_time, name="guardrail-pool-timekeeper", daemon=True)
        self._threads.append(timekeeper)
        timekeeper.start()
        for slot in self._queue.slots:
            self._spawn(slot)

    def stop(self) -> None:
        """Break off pauses between attempts to build a replica. The queue tells the threads to end."""
        self._stop.set()

    def owns_current_thread(self) -> bool:
        """Tell whether the caller is one of the pool's own threads (a done-callback runs in one)."""
        return threading.current_thread() in self._threads

    def join(self, timeout_s: float) -> bool:
        """Wait for the threads to end; return whether all have. The calling thread is left out."""
        until = self._clock() + timeout_s
        # One that the system did not start cannot be joined.
        others = [thread for thread in self._threads if thread.is_alive() and thread is not threading.current_thread()]
        for thread in others:
            thread.join(max(0.0, until - self._clock()))
        return not any(thread.is_alive() for thread in others)

    def _spawn(self, slot: Slot) -> None:
        worker = Worker(
            slot=slot,
            queue=self._queue,
            factories=self._factories,
            clock=self._clock,
            stop=self._stop,
            on_death=self._replace,
            on_build=self._grow,
        )
        with self._lock:  # two threads may die at once
            self._threads = [thread for thread in self._threads if thread.is_alive()] + [worker.thread]
            worker.thread.start()

    def _grow(self, slot: Slot, model: str) -> None:
        """Add the slots that this one's device is good for, once a factory can tell. Called in the slot's thread."""
        factory = self._factories[model]
        with self._lock:
            if slot.index not in self._to_grow or not isinstance(factory, PlacedFactory):
                return
            self._to_grow.remove(slot.index)
        for new in self._queue.widen(slot, factory.places(slot.device)):
            self._spawn_or_retire(new)

    def _replace(self, slot: Slot) -> None:
        """Called in the thread that dies."""
        if self._queue.phase == "closed":
            return
        if slot.barren_deaths >= _RETIRE_AFTER:
            self._queue.retire(slot)
        else:
            self._spawn_or_retire(slot)

    def _spawn_or_retire(self, slot: Slot) -> None:
        """Start a slot's thread; a slot without one would count as able for ever."""
        try:
            self._spawn(slot)
        except BaseException as error:  # no more threads, or the interpreter is shutting down
            _log.error("a pool thread could not be started: %s", type(error).__name__)
            self._queue.retire(slot)

    def _keep_time(self) -> None:
        while True:
            try:
                while (due := self._queue.wait_due()) is not None:
                    for job in due:
                        job.expire()
                return
            except BaseException as error:  # noqa: PERF203 - nobody else keeps the deadlines of running work
                _log.error("the pool's timekeeper went on after %s", type(error).__name__)
