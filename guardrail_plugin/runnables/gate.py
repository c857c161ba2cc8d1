"""What a speculative call waits for before it may act: the verdict on its input."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from contextvars import ContextVar
from threading import Event

from guardrail_plugin.core.errors import BlockedError, ConfigError, GuardianTimeout

_STANDSTILL_S = 60.0


class Gate:
    """Opened or shut once, by whoever judges; waited for by guarded tools, in any thread or event loop.

    A gate inside another call's gate lets nothing through before that one does.
    """

    def __init__(self, *, wait_s: float = 60.0) -> None:
        """Close a gate. ``wait_s``: how long a thread waits for it, in seconds."""
        self._outer = _GATE.get()
        self._open: Future[bool] = Future()
        self._wait_s = wait_s
        self._loop = _running_loop()

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
        """Wait for the verdict, in a thread.

        Raises:
            BlockedError: the input was blocked.
            ConfigError: this is the event loop that has to bring the verdict.
            GuardianTimeout: it did not come in time.
        """
        if self._outer is not None:
            self._outer.wait()
        if not self._open.done() and self._loop is not None and self._loop is _running_loop():
            raise ConfigError(
                "a guarded tool was called with invoke on the event loop, where overlap=True has it wait for the "
                "verdict that this loop brings; call it with ainvoke"
            )
        self._refuse_standstill()
        try:
            is_open = self._open.result(self._wait_s)
        except FutureTimeout:
            raise GuardianTimeout(self._wait_s) from None
        if not is_open:
            raise BlockedError(None, rail="input")

    def _refuse_standstill(self) -> None:
        """Wait until there is a verdict, or until the loop that brings it shows that it runs.

        Raises:
            ConfigError: it does neither: it waits for what runs here.
        """
        if self._loop is None or self._open.done():
            return
        told = Event()
        with suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(told.set)
        self._open.add_done_callback(lambda _: told.set())
        wait_s = min(self._wait_s, _STANDSTILL_S)
        if not told.wait(wait_s):
            raise ConfigError(
                f"a guarded tool waits in a thread for a verdict, and the event loop that brings it has not run for "
                f"{wait_s:g} s: it is blocked, or waits for this thread, where a step of the chain on the loop calls "
                "something with invoke; call that with ainvoke"
            )

    async def await_open(self) -> None:
        """Like ``wait``. Cancellation: passes; the gate stays as it is."""
        if self._outer is not None:
            await self._outer.await_open()
        if not await asyncio.shield(asyncio.wrap_future(self._open)):
            raise BlockedError(None, rail="input")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


_GATE: ContextVar[Gate | None] = ContextVar("guardrail_gate", default=None)


def wait_for_verdict() -> None:
    """Wait until the call that runs here may act. At once where nothing is speculative.

    Raises:
        BlockedError: its input was blocked.
        ConfigError: this is the event loop that has to bring the verdict.
        GuardianTimeout: the verdict did not come in time.
    """
    gate = _GATE.get()
    if gate is not None:
        gate.wait()


async def await_verdict() -> None:
    """Like ``wait_for_verdict``. Cancellation: passes."""
    gate = _GATE.get()
    if gate is not None:
        await gate.await_open()
