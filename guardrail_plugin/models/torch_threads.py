"""One compute thread per pool thread on a CPU, without touching the threads of the program around it."""

from __future__ import annotations

import threading

import torch

_lock = threading.Lock()


def usable_threads() -> int:
    """Return how many threads torch gives a new thread: the cores, or what ``OMP_NUM_THREADS`` or the program says."""
    found: list[int] = []
    asking = threading.Thread(target=lambda: found.append(torch.get_num_threads()), name="guardrail-threads")
    with _lock:
        asking.start()
        asking.join()
    return found[0]


def use_one_thread() -> None:
    """Make torch compute in the calling thread alone.

    OpenMP's count belongs to the thread that sets it, but torch also notes it for threads that come to torch later.
    So a short-lived thread sets that note back at once; threads that have used torch before never see a change.

    Source: two-thread regions on cores that others use too cost 11 times their quiet time (they wait for each other at
    barriers); one thread per replica does not.
    """
    with _lock:
        before = torch.get_num_threads()
        if before == 1:
            return
        torch.set_num_threads(1)
        restore = threading.Thread(target=torch.set_num_threads, args=(before,), name="guardrail-threads")
        restore.start()
        restore.join()
