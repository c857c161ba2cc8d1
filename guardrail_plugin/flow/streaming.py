"""Run a ``HoldBack`` over a stream: the sync driver in turns, the async one with checks beside the source."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.flow.drivers import run_async, run_sync
from guardrail_plugin.flow.holdback import HoldBack, Part
from guardrail_plugin.flow.outcomes import Outcome
from guardrail_plugin.flow.perform import ajudge, judge
from guardrail_plugin.flow.rails import Uncheckable
from guardrail_plugin.guardian.protocol import CheckOutcome, GuardianProtocol

C = TypeVar("C")
C_contra = TypeVar("C_contra", contravariant=True)

READ_AHEAD = 256
"""Chunks that an async source may run ahead of its reader, or of the check that is out."""


class AnswerReader(Protocol[C_contra]):
    """Reads one answer chunk by chunk. Has state; made for one stream."""

    def read(self, chunk: C_contra) -> Part:
        """Return what the chunk adds."""

    def rest(self) -> tuple[Check, ...]:
        """Return what else the chunks add up to that must be judged: tool calls."""

    def nothing(self) -> Uncheckable | None:
        """Tell that the chunks add up to something in which there is no text to judge."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The last thing that a held stream yields.

    Attributes:
        released_characters: how much of the answer had left before.
        windows: checks that were made.
    """

    outcome: Outcome
    released_characters: int
    windows: int


def hold(
    machine: HoldBack[C], source: Iterator[C], *, reader: AnswerReader[C], guardian: GuardianProtocol, timeout_s: float
) -> Iterator[C | Ending]:
    """Yield the chunks that may leave, then how it ended. Checks and source take turns.

    A block, an error and a reader that leaves all close the source before anything else happens.
    """
    try:
        for chunk in source:
            machine.add(chunk, reader.read(chunk))
            yield from machine.take()
            yield from _check(machine, guardian, timeout_s)
            if machine.stopped:
                break
        else:
            machine.end(reader.rest(), nothing=reader.nothing())
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            # Once a block has stopped it, the source's own troubles say nothing any more.
            with suppress(Exception) if machine.stopped else nullcontext():
                close()
    yield from _check(machine, guardian, timeout_s)
    outcome = run_sync(machine.ending(), guardian)
    machine.settled(outcome)
    yield from machine.take()
    yield Ending(outcome, machine.released_characters, machine.windows)


def _check(machine: HoldBack[C], guardian: GuardianProtocol, timeout_s: float) -> Iterator[C]:
    while checks := machine.wanted():
        machine.judged(judge(checks, guardian, timeout_s))
        yield from machine.take()


@dataclass(frozen=True, slots=True)
class _Chunk(Generic[C]):
    chunk: C


@dataclass(frozen=True, slots=True)
class _Verdicts:
    outcomes: Sequence[CheckOutcome]


class _Broken:
    """An error on its way to the reader. It is let go of when it is raised: its traceback would hold it in turn."""

    def __init__(self, error: BaseException) -> None:
        self._errors = [error]

    def again(self) -> None:
        """Raise it."""
        raise self._errors.pop()


class _End:
    pass


_Event: TypeAlias = _Chunk[C] | _Verdicts | _Broken | _End


class _Desk(Generic[C]):
    """The tasks of one held async stream, and the inbox in which they put what happened."""

    def __init__(self, source: AsyncIterator[C], guardian: GuardianProtocol, timeout_s: float) -> None:
        self.inbox: asyncio.Queue[_Event[C]] = asyncio.Queue()
        self._room = asyncio.Semaphore(READ_AHEAD)
        self._owed = 0
        self._guardian = guardian
        self._timeout_s = timeout_s
        self._source = source
        self._pump: asyncio.Task[None] | None = asyncio.create_task(self._read())
        self._judge: asyncio.Task[None] | None = None

    async def _read(self) -> None:
        # One task reads the source from first to last: task groups inside it are left where they were entered.
        try:
            try:
                async for chunk in self._source:
                    await self._room.acquire()
                    self.inbox.put_nowait(_Chunk(chunk))
            finally:
                close = getattr(self._source, "aclose", None)
                if close is not None:
                    await close()
        except BaseException as error:
            self.inbox.put_nowait(_Broken(error))
            if isinstance(error, asyncio.CancelledError):
                raise
        else:
            self.inbox.put_nowait(_End())

    async def _ask(self, checks: Sequence[Check]) -> None:
        try:
            self.inbox.put_nowait(_Verdicts(await ajudge(checks, self._guardian, self._timeout_s)))
        except BaseException as error:
            self.inbox.put_nowait(_Broken(error))
            if isinstance(error, asyncio.CancelledError):
                raise

    def ask(self, checks: Sequence[Check]) -> None:
        """Start a check."""
        self._judge = asyncio.create_task(self._ask(checks))

    async def events(self) -> list[_Event[C]]:
        """Wait for something to happen; return all that has."""
        events = [await self.inbox.get()]
        while not self.inbox.empty():
            events.append(self.inbox.get_nowait())
        return events

    def pay(self, chunks: int, *, waiting: bool) -> None:
        """Let the source read on: what a check that is out will free, it does not free yet."""
        self._owed += chunks
        if not waiting:
            for _ in range(self._owed):
                self._room.release()
            self._owed = 0

    async def close(self) -> None:
        """Cancel and await what still runs, and let go of it. Idempotent.

        Chains do not close the streams inside them: those end when nothing refers to them, and a cancelled task's
        error does, through its traceback.
        """
        running = [task for task in (self._pump, self._judge) if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._pump = self._judge = None
        while not self.inbox.empty():
            self.inbox.get_nowait()


async def ahold(
    machine: HoldBack[C],
    source: AsyncIterator[C],
    *,
    reader: AnswerReader[C],
    guardian: GuardianProtocol,
    timeout_s: float,
) -> AsyncIterator[C | Ending]:
    """Like ``hold``; the source is read in a task of its own while a check is out, at most ``READ_AHEAD`` chunks.

    Cancellation: the source's task and the check are cancelled and awaited; so they are when the reader leaves.
    """
    desk = _Desk(source, guardian, timeout_s)
    try:
        while not machine.finished:
            chunks = 0
            for event in await desk.events():
                if isinstance(event, _Verdicts):
                    machine.judged(event.outcomes)
                elif machine.stopped:
                    continue
                elif isinstance(event, _Broken):
                    event.again()
                elif isinstance(event, _Chunk):
                    machine.add(event.chunk, reader.read(event.chunk))
                    chunks += 1
                else:
                    machine.end(reader.rest(), nothing=reader.nothing())
            del event  # an error that came too late holds its frames
            if checks := machine.wanted():
                desk.ask(checks)
            desk.pay(chunks, waiting=machine.waiting)
            for chunk in machine.take():
                yield chunk
    finally:
        await desk.close()
    outcome = await run_async(machine.ending(), guardian)
    machine.settled(outcome)
    for chunk in machine.take():
        yield chunk
    yield Ending(outcome, machine.released_characters, machine.windows)
