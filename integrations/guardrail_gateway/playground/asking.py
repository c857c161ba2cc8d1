"""One question of the page, through the gateway's own rails, told step by step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from guardrail_fastapi import SseResponse
from guardrail_fastapi.sse import event as sse
from guardrail_gateway.bodies import JsonObject
from guardrail_gateway.completions import FILTERED, instead
from guardrail_gateway.desk import Desk
from guardrail_gateway.gateway import Gateway, as_problem, body_of, desk_of, forwarded, gateway_of
from guardrail_gateway.playground.decisions import decisions
from guardrail_gateway.playground.measured import CountedStream, TimedGuardian, text_of
from guardrail_gateway.playground.outbox import Outbox
from guardrail_gateway.problems import Problem, bad_request
from guardrail_gateway.reading import ChoiceReader, read_question
from guardrail_gateway.upstream import UpstreamError
from guardrail_plugin import GuardrailError
from guardrail_plugin.flow import Allowed, Blocked, Edited, Ending, Failed, Outcome, ahold, describe
from guardrail_plugin.runnables.streams import closing


async def ask(request: Request, *, show_held: bool) -> Response:
    """Answer a message as server-sent events. What no rail has let through is a number, unless ``show_held``.

    Cancellation: nothing is left running.
    """
    gateway, desk = gateway_of(request), desk_of(request, operation="playground")
    given = await body_of(request)
    message, model = given.get("message"), given.get("model", "")
    if not isinstance(message, str) or not message.strip():
        raise bad_request("message must be text.", param="message")
    if not isinstance(model, str):
        raise bad_request("model must be a name.", param="model")
    desk.note.asked_for(model, streamed=True)
    body: JsonObject = {"model": model, "messages": [{"role": "user", "content": message}], "stream": True}
    run = _Run(gateway, desk, show_held=show_held)
    return SseResponse(run.events(body, forwarded(request)), headers={"cache-control": "no-store"}, watch=False)


class _Run:
    def __init__(self, gateway: Gateway, desk: Desk, *, show_held: bool) -> None:
        pool = gateway.service.pool
        self._guardian = TimedGuardian(gateway.service.guardian, stats=None if pool is None else pool.stats)
        self._desk = Desk(replace(desk.service, guardian=self._guardian), desk.settings, desk.note)
        self._upstream = gateway.upstream
        self._show_held = show_held
        self._outbox = Outbox()
        self._source: CountedStream | None = None
        self._released = 0

    async def events(self, body: JsonObject, headers: Mapping[str, str]) -> AsyncGenerator[bytes, None]:
        """Yield what happens. Cancellation: the work is cancelled and awaited."""
        work = asyncio.create_task(self._work(body, headers))
        work.add_done_callback(lambda _: self._outbox.close())
        try:
            async for told in self._outbox:
                yield sse(told)
            await work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _work(self, body: JsonObject, headers: Mapping[str, str]) -> None:
        try:
            if await self._passes(body):
                self._source = CountedStream(
                    await self._upstream.open("chat/completions", body, headers), on_chunk=self._came
                )
                self._desk.note.upstream_s = self._desk.note.seconds
                await self._answer(self._source)
            self._end()
        except UpstreamError as error:
            self._fail(await as_problem(error, self._desk))
        except Problem as problem:
            self._fail(problem)
        except GuardrailError as error:
            self._fail(Problem.of(error))

    async def _passes(self, body: JsonObject) -> bool:
        """Judge the message; return whether the model gets it."""
        messages = body["messages"]
        if "input" not in self._desk.settings.rails or not isinstance(messages, list):
            return True
        outcome, _ = await self._desk.question(read_question(messages, context_turns=self._desk.settings.context_turns))
        if outcome is None:
            return True
        self._tell(outcome)
        self._replace(outcome)
        return not isinstance(outcome, Blocked)

    async def _answer(self, source: CountedStream) -> None:
        try:
            if "output" not in self._desk.settings.rails:
                async for chunk in source:
                    self._left(chunk)
                return
            await self._held_back(source)
        finally:
            await source.aclose()

    async def _held_back(self, source: CountedStream) -> None:
        desk, reader, started = self._desk, ChoiceReader(), time.monotonic()
        held = ahold(desk.holdback(), source, reader=reader, guardian=self._guardian, timeout_s=desk.policy.timeout_s)
        async with closing(held) as items:
            async for item in items:
                if not isinstance(item, Ending):
                    self._left(item)
                    continue
                checks = [desk.asked.check(reader.text)]
                desk.tell(
                    item.outcome,
                    seconds=time.monotonic() - started,
                    checks=checks,
                    released_characters=item.released_characters,
                )
                if isinstance(item.outcome, Failed):
                    raise Problem.of(item.outcome.error)
                self._tell(item.outcome, checks=item.windows)
                self._replace(item.outcome)
                if self._show_held and not isinstance(item.outcome, Allowed):
                    self._outbox.put("dropped", text=reader.text[self._released :])

    def _came(self, received: int) -> None:
        self._outbox.held(received - self._released)

    def _left(self, chunk: JsonObject) -> None:
        text, note = text_of(chunk), self._desk.note
        note.used(chunk.get("usage"))
        if not text:
            return
        if note.first_chunk_s is None:
            note.first_chunk_s = note.seconds
        self._released += len(text)
        self._outbox.text(text)
        if self._source is not None:
            self._outbox.held(self._source.received - self._released)

    def _replace(self, outcome: Outcome) -> None:
        if isinstance(outcome, Blocked | Edited):
            self._desk.note.finish_reasons.append(FILTERED)
            self._outbox.put("instead", text=instead(outcome))

    def _tell(self, outcome: Outcome, **fields: object) -> None:
        policy, verdict = self._desk.policy, outcome.verdict
        told = describe(outcome, policy_version=policy.version)
        if verdict is not None:
            told["in_force"] = round(policy.threshold_for(verdict), 6)
            told["decisions"] = decisions(policy, verdict)
        self._outbox.put("rail", **told, **fields)

    def _end(self) -> None:
        guardian, source = self._guardian, self._source
        received = 0 if source is None else source.received
        self._outbox.put(
            "end",
            asked_model=source is not None,
            released=self._released,
            dropped=received - self._released,
            checks=guardian.checks,
            timing={
                "queue_s": guardian.queue_s,
                "guardian_s": max(guardian.check_s - (guardian.queue_s or 0.0), 0.0),
                "response_s": guardian.respond_s,
                "model_s": None if source is None else source.waited_s,
                "total_s": self._desk.note.seconds,
            },
        )

    def _fail(self, problem: Problem) -> None:
        self._desk.note.error = problem.code
        self._outbox.put("error", code=problem.code, message=problem.message)
