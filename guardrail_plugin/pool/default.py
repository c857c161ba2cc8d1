"""The process-wide pool behind the one-line conveniences. Made on first use, closed at interpreter exit."""

from __future__ import annotations

import os
import threading

from guardrail_plugin.pool.pool import InferencePool


class _Default:
    """Holds the pool of this process. A forked child starts with none."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._lock = threading.Lock()
        self._pool: InferencePool | None = None

    def get(self) -> InferencePool:
        with self._lock:
            if self._pool is None or self._pool.is_closed:
                pool = InferencePool()
                pool.open()
                self._pool = pool
            return self._pool


_default = _Default()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_default.forget)


def default_pool() -> InferencePool:
    """Return the pool that everybody in this process shares, with default settings. If it was closed, a new one.

    Safe to call from many threads. In a forked child it is a new pool.
    """
    return _default.get()
