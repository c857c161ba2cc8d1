"""``GuardedSaver``: a checkpointer that keeps what nobody has judged out of its store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)
from typing_extensions import override

from guardrail_langchain.aside import InMemory, Ledger, Merged, arun, run
from guardrail_langchain.places import Places
from guardrail_plugin import ConfigError


class GuardedSaver(BaseCheckpointSaver[Any]):
    """A checkpointer around another, whose store never holds a text before it was judged, nor one that was blocked.

        agent = create_agent(model, tools, middleware=[GuardrailMiddleware(guardian=guardian)],
                             checkpointer=GuardedSaver(saver))

    LangGraph saves what a user says before any node of the graph runs, and again when the first is about to: without
    this wrapper a blocked turn is gone from the state, but stays in those two older checkpoints. Here they are put
    aside, with all that is written to them, while nodes named ``*.before_agent`` or in ``until`` are still to run, and
    while an answer or a tool's output waits for a person. With the first checkpoint after that, what was put aside is
    dropped, and the store goes on from the last checkpoint it holds.

    ``get_state``, interrupts, resume and time travel see both places as one. What differs: the history of a turn
    begins where it has been judged, so a process that dies earlier forgets the turn, and the user asks again.

    What is put aside is in this process's memory, for the 10,000 threads that were last put aside: a paused thread
    cannot be resumed by another process, and what was not decided is never let through. Pass ``waiting``, a second
    checkpointer, where threads must outlive the process while a person decides; it does hold those texts until then,
    and whether deleted rows can still be read in its file is its database's matter (SQLite: ``PRAGMA secure_delete``).

    ``durability="exit"`` alone keeps plain blocks out of a store too, but not what waits for a person, nor a turn in
    which the guardian raised.

    Does not: keep back arguments of a tool call that a person is asked about (they are part of the state), or texts
    that the program itself writes into a stored state (``update_state``, ``Command(update=..., resume=...)``);
    support ``DeltaChannel`` (it refuses to save); delete what waits in ``delete_for_runs``, or copy it in
    ``copy_thread``.
    A parent graph whose agent is a subgraph stores its own input: name the agent's node in ``until``.
    """

    def __init__(
        self,
        saver: BaseCheckpointSaver[Any],
        *,
        waiting: BaseCheckpointSaver[Any] | None = None,
        until: Collection[str] = (),
    ) -> None:
        """Wrap a checkpointer.

        Args:
            saver: the store for what has been judged. The caller opens and closes it.
            waiting: where the rest is put aside. ``None``: in this process's memory.
            until: nodes, besides those of middlewares, that judge what the user says (made by ``guardrail_node``), and
                those that run before them.

        Raises:
            ConfigError: ``saver`` or ``waiting`` is no checkpointer, or both are the same; ``until`` is a text.
        """
        for name, given in (("saver", saver), ("waiting", waiting)):
            if not isinstance(given, BaseCheckpointSaver) and not (name == "waiting" and given is None):
                raise ConfigError(f"{name} must be a checkpointer, got {type(given).__name__}")
        if waiting is saver:
            raise ConfigError("waiting must be another checkpointer than saver")
        if isinstance(until, str):
            raise ConfigError("until must be a list of node names, got a text")
        super().__init__(serde=saver.serde)
        ledger = Ledger(bounded=waiting is None)
        # Of the same serializer: what the store can hold can wait.
        place = InMemory(serde=saver.serde) if waiting is None else waiting
        self._places = Places(saver, place, ledger=ledger, until=frozenset(until))

    @property
    @override
    def config_specs(self) -> list[Any]:
        return self._places.kept.config_specs

    @override
    def get_next_version(self, current: Any, channel: None) -> Any:
        return self._places.kept.get_next_version(current, channel)

    @override
    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> GuardedSaver:
        clone = GuardedSaver.__new__(GuardedSaver)
        clone._places = self._places.with_allowlist(extra_allowlist)
        clone.serde = clone._places.kept.serde
        return clone

    @override
    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return run(self._places.find(config))

    @override
    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return await arun(self._places.find(config))

    @override
    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        asked: dict[str, Any] = {"filter": filter, "before": before, "limit": limit}
        merged = Merged(tuple(self._places.waiting.list(config, **asked)), limit)
        for item in self._places.kept.list(config, **asked):
            yield from merged.upto(item)
        yield from merged.rest()

    @override
    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        asked: dict[str, Any] = {"filter": filter, "before": before, "limit": limit}
        found = [item async for item in self._places.waiting.alist(config, **asked)]
        merged = Merged(found, limit)
        async for item in self._places.kept.alist(config, **asked):
            for one in merged.upto(item):
                yield one
        for one in merged.rest():
            yield one

    @override
    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        return run(self._places.save(config, checkpoint, metadata, new_versions))

    @override
    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        return await arun(self._places.save(config, checkpoint, metadata, new_versions))

    @override
    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        run(self._places.write(config, writes, task_id, task_path))

    @override
    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        await arun(self._places.write(config, writes, task_id, task_path))

    @override
    def delete_thread(self, thread_id: str) -> None:
        run(self._places.forget(thread_id))

    @override
    async def adelete_thread(self, thread_id: str) -> None:
        await arun(self._places.forget(thread_id))

    @override
    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        self._places.kept.delete_for_runs(run_ids)

    @override
    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        await self._places.kept.adelete_for_runs(run_ids)

    @override
    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        self._places.kept.copy_thread(source_thread_id, target_thread_id)

    @override
    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        await self._places.kept.acopy_thread(source_thread_id, target_thread_id)

    @override
    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        if strategy == "delete":
            run(self._places.drop(thread_ids))
        self._places.kept.prune(thread_ids, strategy=strategy)

    @override
    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        if strategy == "delete":
            await arun(self._places.drop(thread_ids))
        await self._places.kept.aprune(thread_ids, strategy=strategy)
