"""Replicas that share one copy of the weights per device."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from guardrail_plugin.models.load import device_places, resolve_device
from guardrail_plugin.pool.protocol import Replica

if TYPE_CHECKING:
    from guardrail_plugin.models.kept import KeptRows
    from guardrail_plugin.models.rows import Engine

KEPT_MB_CPU = 256
"""Keys and values kept per model in main memory: about 90 verdicts of 60 tokens on the embedded model."""

KEPT_MB_ACCELERATOR = 1024


class LoadModel(Protocol):
    """Loads a model onto a device."""

    def __call__(self, *, device: str) -> Any: ...


@dataclass(slots=True, eq=False)
class _Loaded:
    """Weights on a device with what is kept of their rows; ``users``: replicas that stand on them."""

    engine: Engine
    kept: KeptRows
    nbytes: int
    batch_tokens: int
    users: int = 0


class SharedWeights:
    """A ``PlacedFactory``: loads a model once per device, however many slots ask for it.

    Weights are read-only here, so threads of one process share them. When the last replica on a device is closed its
    weights are freed. On a CPU each replica computes in its own thread alone.

    Args:
        load: loads the model.
        first_suppressed: ids from here on are never generated.
        keep_answers: whether ended decodes are kept for the next turn.
        kept_mb: memory for kept keys and values, per device; 0: none. ``None``: ``KEPT_MB_CPU`` or
            ``KEPT_MB_ACCELERATOR``.
    """

    def __init__(
        self,
        load: LoadModel,
        *,
        first_suppressed: int | None = None,
        keep_answers: bool = False,
        kept_mb: int | None = None,
    ) -> None:
        self._load = load
        self._first_suppressed = first_suppressed
        self._keep_answers = keep_answers
        self._kept_mb = kept_mb
        self._lock = threading.Lock()
        self._loaded: dict[str, _Loaded] = {}
        self._freed = (0, 0, 0)  # lookups, hits and reused tokens of weights that were freed: counters never go back

    def places(self, device: str) -> Sequence[str]:
        """Return where replicas of this model should live when the caller names ``device`` and no number of them."""
        return device_places(device)

    def kept_counts(self) -> tuple[int, int, int, int, int]:
        """Return rows and bytes kept now, and lookups, hits and reused tokens so far, over all devices.

        Takes no lock: whoever asks must not wait until weights are loaded.
        """
        lookups, hits, reused = self._freed
        stats = [loaded.kept.stats for loaded in list(self._loaded.values())]
        return (
            sum(one.rows for one in stats),
            sum(one.bytes for one in stats),
            lookups + sum(one.lookups for one in stats),
            hits + sum(one.hits for one in stats),
            reused + sum(one.tokens_reused for one in stats),
        )

    def __call__(self, device: str) -> Replica:
        """Build a replica, in the thread that will use it."""
        from guardrail_plugin.models.torch_replica import TorchReplica
        from guardrail_plugin.models.torch_threads import use_one_thread

        where = resolve_device(device)
        if where == "cpu":
            use_one_thread()
        with self._lock:
            loaded = self._loaded.get(where) or self._load_onto(where)
            loaded.users += 1
        return TorchReplica(
            engine=loaded.engine,
            kept=loaded.kept if loaded.kept.max_bytes else None,
            first_suppressed=self._first_suppressed,
            keep_answers=self._keep_answers,
            nbytes=loaded.nbytes,
            batch_tokens=loaded.batch_tokens,
            on_close=lambda: self._release(where, loaded),
        )

    def _load_onto(self, where: str) -> _Loaded:
        from guardrail_plugin.models.kept import KeptRows
        from guardrail_plugin.models.torch_calibrate import best_batch_tokens
        from guardrail_plugin.models.torch_engine import choose_engine

        model = self._load(device=where)
        engine = choose_engine(model)
        kept_mb = self._kept_mb
        if kept_mb is None:
            kept_mb = KEPT_MB_CPU if where == "cpu" else KEPT_MB_ACCELERATOR
        kept = KeptRows(max_bytes=kept_mb << 20)
        vocabulary = model.get_input_embeddings().num_embeddings
        batch_tokens = 0 if where == "cpu" else best_batch_tokens(engine, vocabulary=vocabulary)
        self._loaded[where] = _Loaded(engine, kept, _weight_bytes(model) + kept.max_bytes, batch_tokens)
        return self._loaded[where]

    def _release(self, where: str, loaded: _Loaded) -> None:
        with self._lock:
            loaded.users -= 1
            if loaded.users == 0 and self._loaded.get(where) is loaded:
                del self._loaded[where]
                stats, (lookups, hits, reused) = loaded.kept.stats, self._freed
                self._freed = (lookups + stats.lookups, hits + stats.hits, reused + stats.tokens_reused)


def _weight_bytes(model: Any) -> int:
    """Return the bytes of all weights, each piece of memory counted once."""
    storages = {s.data_ptr(): s.nbytes() for s in (p.untyped_storage() for p in model.parameters())}
    return sum(storages.values())
