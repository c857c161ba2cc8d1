"""What is noted about one request while it runs, for whoever observes the gateway."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection

from guardrail_gateway.bodies import as_object
from guardrail_plugin.observe import RailEvent, RequestEvent

SCOPE_KEY = "guardrail.note"
_MODEL = re.compile(r"[\w./:@+=-]{1,100}", re.ASCII)
"""What a model may be called in logs, traces and metrics: a client could write anything there."""

_REASON = re.compile(r"\w{1,40}", re.ASCII)


@dataclass(slots=True)
class Note:
    """One request. Used by its own task."""

    request_id: str
    operation: str = "other"
    caller: str = ""
    provider: str = ""
    traceparent: str = ""
    model: str = ""
    streamed: bool = False
    status: int = 500
    error: str | None = None
    first_chunk_s: float | None = None
    upstream_s: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    finish_reasons: list[str] = field(default_factory=list)
    rails: list[RailEvent] = field(default_factory=list)
    started_s: float = field(default_factory=time.monotonic)
    started_at_s: float = field(default_factory=time.time)

    @property
    def seconds(self) -> float:
        """Since the request came."""
        return time.monotonic() - self.started_s

    def asked_for(self, model: object, *, streamed: bool) -> None:
        """Note what the body asks for."""
        self.model = model if isinstance(model, str) and _MODEL.fullmatch(model) else ""
        self.streamed = streamed

    def used(self, usage: object) -> None:
        """Note an answer's token counts, in either of OpenAI's spellings."""
        told = as_object(usage)
        self.input_tokens = _count(told, "prompt_tokens", "input_tokens", self.input_tokens)
        self.output_tokens = _count(told, "completion_tokens", "output_tokens", self.output_tokens)

    def event(self) -> RequestEvent:
        """Return the finished request's record."""
        return RequestEvent(
            operation=self.operation,
            status=self.status,
            seconds=self.seconds,
            started_at_s=self.started_at_s,
            model=self.model,
            provider=self.provider,
            streamed=self.streamed,
            first_chunk_s=self.first_chunk_s,
            upstream_s=self.upstream_s,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            finish_reasons=tuple(one if _REASON.fullmatch(one) else "other" for one in self.finish_reasons),
            error=self.error,
            request_id=self.request_id,
            caller=self.caller,
            traceparent=self.traceparent,
            rails=tuple(self.rails),
        )


def note_of(connection: HTTPConnection) -> Note:
    """Return the note of a request."""
    note = connection.scope[SCOPE_KEY]
    if not isinstance(note, Note):
        raise AssertionError("the gateway's intake makes a note for every request")
    return note


def _count(told: Mapping[str, object], name: str, other: str, before: int | None) -> int | None:
    value = told.get(name, told.get(other))
    return value if isinstance(value, int) else before
