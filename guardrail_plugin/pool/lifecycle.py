"""The life of a pool: made, entered once, drained, closed; and what happens at interpreter exit and after a fork."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType

from guardrail_plugin.core.errors import PoolClosed
from guardrail_plugin.pool.engine import Engine
from guardrail_plugin.pool.jobqueue import JobQueue
from guardrail_plugin.pool.protocol import ReplicaFactory

_log = logging.getLogger(__name__)

_JOIN_S = 2.0  # a thread inside a forward pass cannot be interrupted; after this it is left to end by itself

_open_pools: weakref.WeakSet[Lifecycle] = weakref.WeakSet()


class Lifecycle:
    """Owns the queue and the threads. ``InferencePool`` adds the requests."""

    def __init__(self, *, queue: JobQueue, clock: Callable[[], float], drain_s: float, grows: bool = False) -> None:
        self._queue = queue
        self._drain_s = drain_s
        self._factories: dict[str, ReplicaFactory] = {}
        self._engine = Engine(queue=queue, factories=self._factories, clock=clock, grows=grows)
        self._pid: int | None = None
        self._closing = threading.Lock()
        self._closed = threading.Event()
        self._closer: int | None = None  # the thread that closes

    @property
    def is_closed(self) -> bool:
        """Whether it is closing or closed."""
        return self._queue.phase in ("draining", "closed")

    def open(self) -> None:
        """Start the threads. ``with`` and ``async with`` call it.

        Raises:
            PoolClosed: the pool was entered before; a pool is used once.
        """
        self._check_process()
        self._queue.open()
        self._pid = os.getpid()
        _open_pools.add(self)
        try:
            self._engine.start()
        except BaseException:
            self.close(drain_s=0.0)
            raise

    def close(self, *, drain_s: float | None = None) -> None:
        """Admit no more, finish the queue within ``drain_s``, fail the rest with ``PoolClosed``, join the threads.

        Idempotent; a second caller waits for the first. In a forked child it does nothing. From one of the pool's own
        threads (a done-callback) it does not drain. From a done-callback or signal handler that runs in the thread that
        closes already it returns at once. A thread that is stuck inside a replica is not waited for.
        """
        if self._pid not in (None, os.getpid()):
            return
        own = self._engine.owns_current_thread()
        if not self._closing.acquire(blocking=False):
            if not own and self._closer != threading.get_ident():  # who closes would wait for itself
                self._closed.wait()
            return
        try:
            self._closer = threading.get_ident()
            self._queue.drain(0.0 if own else self._drain_s if drain_s is None else drain_s)
        finally:
            try:
                self._queue.shut()
                self._engine.stop()
                if not self._engine.join(_JOIN_S):
                    _log.warning("a pool thread is still inside its replica; it ends when the replica returns")
            finally:  # also when Ctrl-C comes meanwhile: later closers, and the exit, must not wait for ever
                _open_pools.discard(self)
                self._closed.set()

    async def aclose(self, *, drain_s: float | None = None) -> None:
        """Like ``close``; the event loop goes on meanwhile. Cancellation: the closing goes on in its own thread."""
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # so that a cancelled waiter does not cancel it

        def close() -> None:
            try:
                self.close(drain_s=drain_s)
            finally:
                done.set_result(None)

        threading.Thread(target=close, name="guardrail-pool-close", daemon=True).start()
        await asyncio.wrap_future(done)

    def _check_process(self) -> None:
        if self._pid not in (None, os.getpid()):
            raise PoolClosed(
                f"this pool belongs to process {self._pid}; its threads do not exist in a forked child: "
                "make a pool in the child, or start it with the spawn method"
            )

    def _drain_for(self, error: type[BaseException] | None) -> float | None:
        # Whoever pressed Ctrl-C, or cancelled the task, does not want to wait for the queue.
        return 0.0 if error is not None and not issubclass(error, Exception) else None

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(drain_s=self._drain_for(error_type))

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose(drain_s=self._drain_for(error_type))


def _close_all() -> None:
    for pool in list(_open_pools):
        pool.close(drain_s=0.0)


atexit.register(_close_all)
