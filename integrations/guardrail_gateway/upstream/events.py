"""Server-sent events, decoded piece by piece within bounds."""

from __future__ import annotations

import json
from collections.abc import Iterator

from guardrail_gateway.bodies import JsonObject
from guardrail_gateway.upstream.protocol import UpstreamError

DONE = "[DONE]"


class EventDecoder:
    """Turns bytes into events' data. Comments and all fields but ``data`` are passed over; types are in the JSON.

    Attributes:
        done: ``[DONE]`` has come.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self.done = False
        self._left = max_bytes
        self._line = bytearray()
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> Iterator[JsonObject]:
        """Yield the events that a piece completes.

        Raises:
            UpstreamError: the stream is longer than allowed, or an event is no JSON object.
        """
        self._left -= len(piece)
        if self._left < 0:
            raise UpstreamError(502, "upstream_answer_too_large")
        self._line += piece
        *lines, rest = self._line.split(b"\n")
        self._line = bytearray(rest)
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(bytes(line[5:].removeprefix(b" ")))
            elif not line and self._data:
                yield from self._event()

    def end(self) -> Iterator[JsonObject]:
        """Yield the event that lacks its empty line: some servers forget the last one."""
        if self._line:
            yield from self.feed(b"\n")
        if self._data:
            yield from self._event()

    def _event(self) -> Iterator[JsonObject]:
        data, self._data = b"\n".join(self._data), []
        if self.done or not data.strip():
            return
        if data.strip() == DONE.encode():
            self.done = True
            return
        try:
            parsed = json.loads(data)
        except (ValueError, RecursionError):
            raise UpstreamError(502, "upstream_invalid_event") from None
        if not isinstance(parsed, dict):
            raise UpstreamError(502, "upstream_invalid_event")
        yield parsed
