"""A streamed completion, held back: the library's hold-back runs over the upstream's chunks."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import aclosing

from guardrail_fastapi.sse import event as sse
from guardrail_gateway.bodies import JsonObject, as_object
from guardrail_gateway.completions import FILTERED, blocked_chunks, head, instead
from guardrail_gateway.desk import Desk
from guardrail_gateway.gateway import as_problem
from guardrail_gateway.problems import Problem
from guardrail_gateway.reading import ChoiceReader, says_more
from guardrail_gateway.upstream import Stream, UpstreamError
from guardrail_plugin import GuardrailError
from guardrail_plugin.flow import Allowed, Ending, Failed, ahold
from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.runnables.streams import closing

DONE = b"data: [DONE]\n\n"


async def guarded_stream(
    source: Stream, *, desk: Desk, guardian: GuardianProtocol, choices: int
) -> AsyncGenerator[bytes, None]:
    """Yield a streamed answer's events, each judged before it leaves, and how it ended.

    A block closes the upstream's stream, and a safeguard response takes the place of what was held. What goes wrong on
    the way is an ``error`` event without ``[DONE]``; what was held then is dropped, for nobody has judged it.

    Several choices are held until the answer is complete, then judged one after the other.

    Cancellation: upstream and checks are cancelled and awaited.
    """
    try:
        if "output" not in desk.settings.rails:
            chunks = _unheld(source, desk)
        elif choices == 1:
            chunks = _held(_of_one_choice(source), desk, guardian)
        else:
            chunks = _held_whole(source, desk, guardian)
        async with aclosing(chunks):
            async for chunk in chunks:
                if desk.note.first_chunk_s is None:
                    desk.note.first_chunk_s = desk.note.seconds
                yield sse(chunk)
        yield DONE
    except (UpstreamError, Problem, GuardrailError) as error:
        problem = await as_problem(error, desk)
        desk.note.error = problem.code
        yield sse(problem.as_dict())
    finally:
        await source.aclose()


async def blocked_stream(
    text: str, *, model: object, choices: int, extension: Mapping[str, object]
) -> AsyncGenerator[bytes, None]:
    """Yield a safeguard response as a streamed completion."""
    shared = head(model=model, kind="chat.completion.chunk")
    for index in range(choices):
        for chunk in blocked_chunks(text, shared=shared, index=index, begun=False, extension=extension):
            yield sse(chunk)
    yield DONE


async def _held(
    source: AsyncIterator[JsonObject], desk: Desk, guardian: GuardianProtocol, *, index: int = 0
) -> AsyncGenerator[JsonObject, None]:
    reader, machine, started = ChoiceReader(), desk.holdback(), time.monotonic()
    held = ahold(machine, source, reader=reader, guardian=guardian, timeout_s=desk.policy.timeout_s)
    last: list[JsonObject] = []
    begun = False
    async with closing(held) as items:
        async for item in items:
            if isinstance(item, Ending):
                desk.tell(
                    item.outcome,
                    seconds=time.monotonic() - started,
                    checks=[desk.asked.check(reader.text)],
                    released_characters=item.released_characters,
                )
                for chunk in _end(item, last, desk, shared=reader.head, index=index, begun=begun):
                    yield chunk
            elif last or _finishes(item):
                # Kept until the outcome is known: the last chunk tells it.
                last.append(item)
            else:
                begun = True
                yield item


def _end(
    ending: Ending, last: list[JsonObject], desk: Desk, *, shared: JsonObject, index: int, begun: bool
) -> Iterable[JsonObject]:
    outcome = ending.outcome
    if isinstance(outcome, Failed):
        raise Problem.of(outcome.error)
    if isinstance(outcome, Allowed):
        yield from _passed(last, desk)
        return
    text = f"\n\n{instead(outcome)}" if ending.released_characters else instead(outcome)
    desk.note.finish_reasons.append(FILTERED)
    extension = desk.extension(released_characters=ending.released_characters)
    yield from blocked_chunks(text, shared=shared, index=index, begun=begun, extension=extension)


def _passed(last: Iterable[JsonObject], desk: Desk) -> Iterable[JsonObject]:
    for chunk in last:
        desk.note.used(chunk.get("usage"))
        if _finishes(chunk):
            desk.note.finish_reasons.append(_finish_reason(chunk))
            yield {**chunk, "guardrail": desk.extension()}
        else:
            yield chunk


async def _unheld(source: Stream, desk: Desk) -> AsyncGenerator[JsonObject, None]:
    async for chunk in source:
        for passed in _passed([chunk], desk):
            yield passed


async def _held_whole(source: Stream, desk: Desk, guardian: GuardianProtocol) -> AsyncGenerator[JsonObject, None]:
    mine: dict[int, list[JsonObject]] = {}
    rest: list[JsonObject] = []
    async for chunk in source:
        choices = chunk.get("choices") or []
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise UpstreamError(502, "upstream_invalid_event")
        if not choices:
            rest.append(chunk)
            continue
        for choice in choices:
            at = as_object(choice).get("index")
            mine.setdefault(at if isinstance(at, int) else 0, []).append({**chunk, "choices": [choice]})
    # What says something beside the choices is judged with the first of them, as where there is one.
    first = min(mine, default=0)
    for chunk in [chunk for chunk in rest if says_more(chunk)]:
        mine.setdefault(first, []).append(chunk)
        rest.remove(chunk)
    for index, chunks in sorted(mine.items()):
        async with aclosing(_held(_each(chunks), desk, guardian, index=index)) as held:
            async for chunk in held:
                yield chunk
    for chunk in _passed(rest, desk):
        yield chunk


async def _of_one_choice(source: Stream) -> AsyncGenerator[JsonObject, None]:
    """Pass on chunks as long as they are of the one choice that was asked for: others would leave with it, unjudged.

    Raises:
        UpstreamError: one is not. Some servers make more on orders that are not OpenAI's.
    """
    async for chunk in source:
        choices = chunk.get("choices") or []
        if not isinstance(choices, list) or len(choices) > 1 or not all(_is_first(choice) for choice in choices):
            raise UpstreamError(502, "upstream_more_choices")
        yield chunk


def _is_first(choice: object) -> bool:
    return isinstance(choice, dict) and choice.get("index") in (0, None)


async def _each(chunks: Iterable[JsonObject]) -> AsyncGenerator[JsonObject, None]:
    for chunk in chunks:
        yield chunk


def _finishes(chunk: Mapping[str, object]) -> bool:
    return _finish_reason(chunk) != ""


def _finish_reason(chunk: Mapping[str, object]) -> str:
    choices = chunk.get("choices")
    reason = as_object(choices[0]).get("finish_reason") if isinstance(choices, list) and choices else None
    return reason if isinstance(reason, str) else ""
