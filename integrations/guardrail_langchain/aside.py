"""What ``GuardedSaver`` remembers of its two places, and how it reads and calls them as one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeAlias, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import WRITES_IDX_MAP, BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.memory import InMemorySaver
from typing_extensions import override

T = TypeVar("T")
Saver: TypeAlias = BaseCheckpointSaver[Any]
Writes: TypeAlias = Sequence[tuple[str, Any]]
Key: TypeAlias = tuple[str, str, str]
"""Thread, namespace, checkpoint."""

_KNOWN = 4096
_WAITING_THREADS = 10_000


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a checkpointer; its async twin's name begins with ``a``."""

    saver: Saver
    name: str
    arguments: tuple[object, ...]


Steps: TypeAlias = Generator[Call, Any, T]


def run(steps: Steps[T]) -> T:
    """Make all calls, sync."""
    answer: object = None
    while True:
        try:
            call = steps.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result
        answer = getattr(call.saver, call.name)(*call.arguments)


async def arun(steps: Steps[T]) -> T:
    """Make all calls, async. Cancellation: passes to the checkpointer; what is decided later is not done."""
    answer: object = None
    while True:
        try:
            call = steps.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result
        answer = await getattr(call.saver, "a" + call.name)(*call.arguments)


class Ledger:
    """What is known of where things are. Shared by threads and event loops; forgets the oldest."""

    def __init__(self, *, bounded: bool) -> None:
        self._bounded = bounded
        self._lock = Lock()
        self._aside: OrderedDict[Key, bool] = OrderedDict()
        self._early: OrderedDict[Key, list[tuple[Writes, str, str]]] = OrderedDict()
        self._threads: OrderedDict[str, None] = OrderedDict()

    def aside(self, key: Key) -> bool | None:
        """Tell whether a checkpoint was put aside; ``None``: it is not known here."""
        with self._lock:
            return self._aside.get(key)

    def found(self, key: Key) -> None:
        """Note that a checkpoint is in the store, and not aside."""
        with self._lock:
            self._aside.setdefault(key, False)
            self._shrink()

    def saved(self, key: Key, *, aside: bool) -> list[tuple[Writes, str, str]]:
        """Note where a checkpoint is. Returns the writes that came before it."""
        with self._lock:
            self._aside[key] = aside
            self._aside.move_to_end(key)
            self._shrink()
            return self._early.pop(key, [])

    def too_early(self, key: Key, write: tuple[Writes, str, str]) -> bool:
        """Keep a write until its checkpoint comes; ``False``: it has come."""
        with self._lock:
            if key in self._aside:
                return False
            self._early.setdefault(key, []).append(write)
            while len(self._early) > _KNOWN:
                self._early.popitem(last=False)  # its node runs again on resume
            return True

    def waits(self, thread_id: str) -> str | None:
        """Note that something of a thread waits. Returns the thread that is dropped for it."""
        with self._lock:
            self._threads[thread_id] = None
            self._threads.move_to_end(thread_id)
            full = self._bounded and len(self._threads) > _WAITING_THREADS
            return next(iter(self._threads)) if full else None

    def forget(self, thread_id: str) -> None:
        """Forget what was put aside of a thread."""
        with self._lock:
            self._threads.pop(thread_id, None)
            for key in [key for key, aside in self._aside.items() if aside and key[0] == thread_id]:
                del self._aside[key]

    def _shrink(self) -> None:
        while len(self._aside) > _KNOWN:
            self._aside.popitem(last=False)


class InMemory(InMemorySaver):
    """The memory for what waits. Unlike its base, it keeps nothing of a thread that it was only asked about."""

    @override
    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return super().get_tuple(config) if config["configurable"]["thread_id"] in self.storage else None

    @override
    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        if config is None or config["configurable"]["thread_id"] in self.storage:
            yield from super().list(config, filter=filter, before=before, limit=limit)


class Merged:
    """The checkpoints of both places, newest first, without those that are in both twice."""

    def __init__(self, aside: Sequence[CheckpointTuple], limit: int | None) -> None:
        self._aside = sorted(aside, key=id_of, reverse=True)
        self._left = limit

    def upto(self, kept: CheckpointTuple) -> Iterator[CheckpointTuple]:
        """Yield what is newer than a stored one, and that one."""
        while self._aside and id_of(self._aside[0]) > id_of(kept):
            yield from self._next(self._aside.pop(0))
        twin = next((item for item in self._aside if _same(item, kept)), None)
        if twin is not None:
            self._aside.remove(twin)
        yield from self._next(kept if twin is None else together(twin, kept))

    def rest(self) -> Iterator[CheckpointTuple]:
        """Yield what is older than all that is stored."""
        for item in self._aside:
            yield from self._next(item)

    def _next(self, item: CheckpointTuple) -> Iterator[CheckpointTuple]:
        if self._left is None or self._left > 0:
            self._left = None if self._left is None else self._left - 1
            yield item


def id_of(item: CheckpointTuple) -> str:
    """Return a checkpoint's id. Ids sort by time."""
    checkpoint_id: str = item.checkpoint["id"]
    return checkpoint_id


def together(aside: CheckpointTuple, kept: CheckpointTuple) -> CheckpointTuple:
    """Return a checkpoint that is in both places with the writes of both; of one write, the one put aside."""
    ours = aside.pending_writes or []
    finished = {task for task, channel, _ in ours if channel not in WRITES_IDX_MAP}
    special = {(task, channel) for task, channel, _ in ours if channel in WRITES_IDX_MAP}
    theirs = [
        write
        for write in kept.pending_writes or ()
        if (write[:2] not in special if write[1] in WRITES_IDX_MAP else write[0] not in finished)
    ]
    return aside._replace(parent_config=kept.parent_config, pending_writes=[*theirs, *ours])


def _same(one: CheckpointTuple, other: CheckpointTuple) -> bool:
    return id_of(one) == id_of(other) and _where(one.config) == _where(other.config)


def _where(config: RunnableConfig) -> tuple[str, str]:
    given = config["configurable"]
    return str(given["thread_id"]), given.get("checkpoint_ns") or ""
