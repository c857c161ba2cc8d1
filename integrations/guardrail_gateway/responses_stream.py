"""A streamed response, held back: the library's hold-back runs over the upstream's events."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable

from guardrail_fastapi.sse import event as sse
from guardrail_gateway.bodies import JsonObject, as_object
from guardrail_gateway.completions import FILTERED, instead
from guardrail_gateway.desk import Desk
from guardrail_gateway.gateway import as_problem
from guardrail_gateway.problems import Problem
from guardrail_gateway.responses_blocked import blocked_events, blocked_response
from guardrail_gateway.responses_events import LAST, EventReader
from guardrail_gateway.upstream import Stream, UpstreamError
from guardrail_plugin import GuardrailError
from guardrail_plugin.flow import Allowed, Ending, Failed, ahold
from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.runnables.streams import closing


async def guarded_response(source: Stream, *, desk: Desk, guardian: GuardianProtocol) -> AsyncGenerator[bytes, None]:
    """Yield a streamed response's events, each judged before it leaves, and how it ended.

    A block closes the upstream's stream; the safeguard response follows as one more output item, and the response ends
    as incomplete. What goes wrong on the way is an ``error`` event.

    Cancellation: upstream and checks are cancelled and awaited.
    """
    events = _held(source, desk, guardian) if "output" in desk.settings.rails else _unheld(source, desk)
    last = -1
    try:
        async with closing(events) as left:
            async for event in left:
                if desk.note.first_chunk_s is None:
                    desk.note.first_chunk_s = desk.note.seconds
                number = event.get("sequence_number")
                last = number if isinstance(number, int) else last + 1
                yield _line(event)
    except (UpstreamError, Problem, GuardrailError) as error:
        problem = await as_problem(error, desk)
        desk.note.error = problem.code
        # As the API documents it, and as it does it: clients look for one or the other.
        told = as_object(problem.as_dict()["error"])
        yield _line({**told, "type": "error", "sequence_number": last + 1, "error": told})
    finally:
        await source.aclose()


async def written(events: Iterable[JsonObject]) -> AsyncGenerator[bytes, None]:
    """Yield events as they are sent."""
    for event in events:
        yield _line(event)


async def _held(source: Stream, desk: Desk, guardian: GuardianProtocol) -> AsyncGenerator[JsonObject, None]:
    reader, machine, started = EventReader(), desk.holdback(), time.monotonic()
    held = ahold(machine, source, reader=reader, guardian=guardian, timeout_s=desk.policy.timeout_s)
    last: JsonObject | None = None
    opened, sequence = 0, -1
    async with closing(held) as items:
        async for item in items:
            if isinstance(item, Ending):
                checks = [desk.asked.check(reader.text)]
                released = item.released_characters
                desk.tell(item.outcome, seconds=time.monotonic() - started, checks=checks, released_characters=released)
                for event in _end(item, last, desk, reader=reader, opened=opened, sequence=sequence):
                    yield event
            elif item.get("type") in LAST:
                last = item
            else:
                opened += item.get("type") == "response.output_item.added"
                number = item.get("sequence_number")
                sequence = number if isinstance(number, int) else sequence + 1
                yield item


def _end(
    ending: Ending, last: JsonObject | None, desk: Desk, *, reader: EventReader, opened: int, sequence: int
) -> Iterable[JsonObject]:
    outcome = ending.outcome
    if isinstance(outcome, Failed):
        raise Problem.of(outcome.error)
    if isinstance(outcome, Allowed):
        if last is not None:
            yield _finished(last, desk)
        return
    desk.note.finish_reasons.append(FILTERED)
    extension = desk.extension(released_characters=ending.released_characters)
    text = instead(outcome)
    whole = blocked_response(text, shared=reader.response, extension=extension)
    yield from blocked_events(text, whole, begun=sequence >= 0, index=opened, sequence=sequence)


def _finished(last: JsonObject, desk: Desk) -> JsonObject:
    response = as_object(last.get("response"))
    desk.note.used(response.get("usage"))
    desk.note.finish_reasons.append(str(as_object(response.get("incomplete_details")).get("reason", "stop")))
    return {**last, "response": {**response, "guardrail": desk.extension()}}


async def _unheld(source: Stream, desk: Desk) -> AsyncGenerator[JsonObject, None]:
    async for event in source:
        yield _finished(event, desk) if event.get("type") in LAST else event


def _line(event: JsonObject) -> bytes:
    kind = event.get("type")
    name = kind if isinstance(kind, str) and kind.replace(".", "").replace("_", "").isalnum() else "message"
    return b"event: " + name.encode("ascii", "replace") + b"\n" + sse(event)
