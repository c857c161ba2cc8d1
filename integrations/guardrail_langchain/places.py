"""Where ``GuardedSaver`` puts each checkpoint and each write: in the store, or aside.

Decided once, in generators that yield calls of the two checkpointers; ``run`` and ``arun`` make them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID, uuid5

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata, CheckpointTuple
from langgraph.constants import START
from langgraph.types import Send

from guardrail_langchain.aside import Call, Key, Ledger, Saver, Steps, Writes, id_of, together
from guardrail_plugin import ConfigError

_JOIN = "join:"
_SENT = "__pregel_tasks"
_NEXT = "branch:to:"
"""LangGraph's channel for "this node is next" begins so, and lives for one step."""

NO_DELTAS = "GuardedSaver does not support DeltaChannel: its values are spread over old checkpoints"


class Places:
    """The store, and the place for what nobody has judged. Immutable but for what the ledger learns."""

    def __init__(self, kept: Saver, waiting: Saver, *, ledger: Ledger, until: frozenset[str]) -> None:
        self.kept = kept
        self.waiting = waiting
        self._ledger = ledger
        self._until = until

    def with_allowlist(self, extra: Collection[tuple[str, ...]]) -> Places:
        """Return the same places, for types that a graph's state may hold."""
        kept, waiting = self.kept.with_allowlist(extra), self.waiting.with_allowlist(extra)
        return Places(kept, waiting, ledger=self._ledger, until=self._until)

    def find(self, config: RunnableConfig) -> Steps[CheckpointTuple | None]:
        """Find a checkpoint, or the latest."""
        aside: CheckpointTuple | None = yield Call(self.waiting, "get_tuple", (config,))
        kept: CheckpointTuple | None = yield Call(self.kept, "get_tuple", (config,))
        if kept is not None and aside is None:
            self._ledger.found(_key(kept.config, id_of(kept)))
        if aside is None or kept is None:
            return kept or aside
        if id_of(aside) == id_of(kept):
            return together(aside, kept)
        return aside if id_of(aside) > id_of(kept) else kept

    def save(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata, versions: ChannelVersions
    ) -> Steps[RunnableConfig]:
        """Save a checkpoint in its place, and drop what was put aside once all of a thread is judged.

        Raises:
            ConfigError: the graph has a ``DeltaChannel``.
        """
        if metadata.get("counters_since_delta_snapshot"):
            raise ConfigError(NO_DELTAS)
        checkpoint = _settled(checkpoint)
        key = _key(config, checkpoint["id"])
        aside = self._unjudged(checkpoint)
        parent = config if aside else (yield from self._stored(config))
        orphan = parent is not config
        # A store that writes only new versions has none of those that were put aside.
        versions = checkpoint["channel_versions"] if aside or orphan else versions
        given = (parent, checkpoint, metadata, versions)
        saved: RunnableConfig = yield Call(self.waiting if aside else self.kept, "put", given)
        for write in self._ledger.saved(key, aside=aside):
            yield from self.write(saved, *write)
        if aside:
            yield from self._make_room(key)
        elif orphan and not key[1]:
            # Only for the whole graph: a subgraph that is judged may be part of a step that waits.
            yield from self._drop(key[0])
        return saved

    def write(self, config: RunnableConfig, writes: Writes, task_id: str, task_path: str) -> Steps[None]:
        """Save writes beside their checkpoint. Those that hold what waits for a person take it along.

        Raises:
            ConfigError: the graph has a ``DeltaChannel``.
        """
        checkpoint_id: str = config["configurable"]["checkpoint_id"]
        if task_id == str(uuid5(UUID(checkpoint_id), "__input__")):
            raise ConfigError(NO_DELTAS)  # so is its input, before it is judged
        key = _key(config, checkpoint_id)
        aside = self._ledger.aside(key)
        if aside is None:
            aside = yield from self._looked_up(config, key)
            if aside is None:
                if self._ledger.too_early(key, (writes, task_id, task_path)):
                    return
                aside = bool(self._ledger.aside(key))
        if not aside and _holds(writes):
            yield from self._take_along(config, key)
            aside = True
        yield Call(self.waiting if aside else self.kept, "put_writes", (config, writes, task_id, task_path))

    def forget(self, thread_id: str) -> Steps[None]:
        """Delete a thread from both places."""
        yield from self._drop(thread_id)
        yield Call(self.kept, "delete_thread", (thread_id,))

    def drop(self, thread_ids: Sequence[str]) -> Steps[None]:
        """Drop what waits of some threads."""
        for thread_id in thread_ids:
            yield from self._drop(thread_id)

    def _drop(self, thread_id: str) -> Steps[None]:
        self._ledger.forget(thread_id)
        yield Call(self.waiting, "delete_thread", (thread_id,))

    def _make_room(self, key: Key) -> Steps[None]:
        dropped = self._ledger.waits(key[0])
        if dropped is not None:
            yield from self._drop(dropped)

    def _unjudged(self, checkpoint: Checkpoint) -> bool:
        values = checkpoint["channel_values"]
        if START in values or values.get("guardrail_held"):
            return True
        return any(node.endswith(".before_agent") or node in self._until for node in _following(values))

    def _stored(self, config: RunnableConfig) -> Steps[RunnableConfig]:
        """Return the config of a new checkpoint with the nearest parent that the store holds; itself if that has it."""
        at: RunnableConfig = config
        while checkpoint_id := at["configurable"].get("checkpoint_id"):
            if at is config and self._ledger.aside(_key(at, checkpoint_id)) is False:
                return config
            aside: CheckpointTuple | None = yield Call(self.waiting, "get_tuple", (at,))
            kept: CheckpointTuple | None = yield Call(self.kept, "get_tuple", (at,))
            if kept is not None:
                return config if aside is None and at is config else _at(config, checkpoint_id)
            before = aside.parent_config if aside is not None else None  # neither: it was dropped to make room
            at = _at(config, before["configurable"]["checkpoint_id"] if before else None)
        return at

    def _looked_up(self, config: RunnableConfig, key: Key) -> Steps[bool | None]:
        for saver, aside in ((self.waiting, True), (self.kept, False)):
            if (yield Call(saver, "get_tuple", (config,))) is not None:
                for write in self._ledger.saved(key, aside=aside):
                    yield from self.write(config, *write)
                return aside
        return None

    def _take_along(self, config: RunnableConfig, key: Key) -> Steps[None]:
        """Copy a stored checkpoint to where writes to it are put aside; read, it has the writes of both places."""
        for write in self._ledger.saved(key, aside=True):
            yield from self.write(config, *write)
        found: CheckpointTuple | None = yield Call(self.kept, "get_tuple", (config,))
        if found is None:
            raise ConfigError("the store lost a checkpoint while its graph ran")
        before = found.parent_config
        at = _at(config, before["configurable"]["checkpoint_id"] if before else None)
        yield Call(self.waiting, "put", (at, found.checkpoint, found.metadata, found.checkpoint["channel_versions"]))
        yield from self._make_room(key)


def _following(values: Mapping[str, Any]) -> list[str]:
    """Return the nodes that are next: by an edge, by an edge from several nodes, and by ``Send``."""
    nodes = [name.removeprefix(_NEXT) for name in values if name.startswith(_NEXT)]
    nodes += [task.node for task in values.get(_SENT) or () if isinstance(task, Send)]
    for name, value in values.items():
        if name.startswith(_JOIN):
            begins, _, node = name.removeprefix(_JOIN).rpartition(":")
            seen = value[0] if isinstance(value, tuple) else value
            nodes += [node] if set(begins.split("+")) <= set(seen) else []
    return nodes


def _settled(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint of a run that has ended without what somebody held on this thread.

    Another agent has gone on with it, and nobody asks any more: what stands in for it stays.
    """
    values = checkpoint["channel_values"]
    if not values.get("guardrail_held") or START in values or _following(values):
        return checkpoint
    kept = {name: value for name, value in values.items() if name != "guardrail_held"}
    return {**checkpoint, "channel_values": kept}


def _holds(writes: Writes) -> bool:
    held = (value for channel, value in writes if channel == "guardrail_held" and value)
    return any(item is not None for value in held for item in value.values())


def _key(config: RunnableConfig, checkpoint_id: str) -> Key:
    given = config["configurable"]
    return str(given["thread_id"]), given.get("checkpoint_ns") or "", checkpoint_id


def _at(config: RunnableConfig, checkpoint_id: str | None) -> RunnableConfig:
    """Return a config that points at another checkpoint of the same thread."""
    others = {name: value for name, value in config["configurable"].items() if name != "checkpoint_id"}
    return {**config, "configurable": {**others, **({"checkpoint_id": checkpoint_id} if checkpoint_id else {})}}
