"""Events that wait for a page to read them. Bounded by the answer itself: what belongs together is joined."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator


class Outbox:
    """Events of one question. Filled and read on one event loop, by two tasks."""

    def __init__(self) -> None:
        self._events: list[dict[str, object]] = []
        self._changed = asyncio.Event()
        self._closed = False

    def put(self, kind: str, **fields: object) -> None:
        """Add an event."""
        self._events.append({"kind": kind, **fields})
        self._changed.set()

    def text(self, text: str) -> None:
        """Add released text."""
        if self._events and self._events[-1]["kind"] == "text":
            self._events[-1]["text"] = f"{self._events[-1]['text']}{text}"
            return
        self.put("text", text=text)

    def held(self, characters: int) -> None:
        """Tell how much is held now. Only the last such number counts."""
        if self._events and self._events[-1]["kind"] == "held":
            self._events[-1]["characters"] = characters
            return
        self.put("held", characters=characters)

    def close(self) -> None:
        """Nothing follows."""
        self._closed = True
        self._changed.set()

    async def __aiter__(self) -> AsyncIterator[dict[str, object]]:
        """Yield the events, until it is closed and empty. Cancellation: passes."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._events:
                taken, self._events = self._events, []
                for event in taken:
                    yield event
            if self._closed:
                return
