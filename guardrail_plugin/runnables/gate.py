"""What a speculative call waits for before it may act: the verdict on its input."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextvars import ContextVar

from guardrail_plugin.core.errors import BlockedError


class Gate:
    """Opened or shut once, by whoever judges; waited for by guarded tools, in any thread or event loop.

    A gate inside another call's gate lets nothing through before that one does.
    """

    def __init__(self) -> None:
        self._outer = _GATE.get()
        self._open: Future[bool] = Future()

    def open(self) -> None:
        """Let the call act. Does nothing once the gate is shut."""
        if not self._open.done():
            self._open.set_result(True)

    def shut(self) -> None:
        """Let the call act no more. Does nothing once the gate is open."""
        if not self._open.done():
            self._open.set_result(False)

    def enter(self) -> None:
        """Make this the gate of all that runs in the current context from now on."""
        _GATE.set(self)

    def wait(self) -> None:
        """Wait for the verdict.

        Raises:
            BlockedError: the input was blocked.
        """
        if self._outer is not None:
            self._outer.wait()
        if not self._open.result():
            raise BlockedError(None, rail="input")

    async def await_open(self) -> None:
        """Like ``wait``. Cancellation: passes; the gate stays as it is."""
        if self._outer is not None:
            await self._outer.await_open()
        if not await asyncio.shield(asyncio.wrap_future(self._open)):
            raise BlockedError(None, rail="input")


_GATE: ContextVar[Gate | None] = ContextVar("guardrail_gate", default=None)


def wait_for_verdict() -> None:
    """Wait until the call that runs here may act. At once where nothing is speculative.

    Raises:
        BlockedError: its input was blocked.
    """
    gate = _GATE.get()
    if gate is not None:
        gate.wait()


async def await_verdict() -> None:
    """Like ``wait_for_verdict``. Cancellation: passes."""
    gate = _GATE.get()
    if gate is not None:
        await gate.await_open()
