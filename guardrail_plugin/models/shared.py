"""Replicas that share one copy of the weights per device."""

from __future__ import annotations

import threading
from typing import Any, Protocol

from guardrail_plugin.models.load import resolve_device
from guardrail_plugin.pool.protocol import Replica, ReplicaFactory


class LoadModel(Protocol):
    """Loads a model onto a device."""

    def __call__(self, *, device: str) -> Any: ...


def shared_factory(load: LoadModel, *, first_suppressed: int | None = None) -> ReplicaFactory:
    """Return a factory that loads a model once per device, however many slots ask for it.

    Weights are read-only here, so threads of one process share them; ``"auto"`` is the best device there is.
    """
    lock = threading.Lock()
    loaded: dict[str, Any] = {}

    def build(device: str) -> Replica:
        from guardrail_plugin.models.torch_replica import TorchReplica

        where = resolve_device(device)
        with lock:
            if where not in loaded:
                loaded[where] = load(device=where)
        return TorchReplica(model=loaded[where], device=where, first_suppressed=first_suppressed)

    return build
