"""``POST /v1/responses``, where the upstream has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from guardrail_fastapi import SseResponse
from guardrail_gateway.bodies import JsonObject, as_object
from guardrail_gateway.completions import FILTERED, instead
from guardrail_gateway.desk import Desk
from guardrail_gateway.gateway import LARGE_BYTES, Gateway, as_problem, body_of, desk_of, forwarded, gateway_of
from guardrail_gateway.history import History, read_history
from guardrail_gateway.parameters import RESPONSES_SETTINGS, said_beside
from guardrail_gateway.problems import Problem, bad_request
from guardrail_gateway.reading import ToolOutput, is_word, read_question, read_tool_outputs
from guardrail_gateway.responses_blocked import blocked_events, blocked_response
from guardrail_gateway.responses_ids import without_own_ids
from guardrail_gateway.responses_reading import as_messages, server_outputs, whole_answer
from guardrail_gateway.responses_stream import guarded_response, written
from guardrail_gateway.responses_withheld import without_text
from guardrail_gateway.upstream import UpstreamError
from guardrail_plugin import Check, InputError
from guardrail_plugin.flow import Allowed, Blocked, Edited
from guardrail_plugin.runnables.content import text_in
from guardrail_plugin.runnables.views import Turn


async def responses(request: Request) -> Response:
    """Judge, ask the upstream, judge what it answers. Cancellation: nothing is left running."""
    gateway, desk = gateway_of(request), desk_of(request, operation="responses")
    body = await body_of(request)
    if body.get("stream") not in (None, True, False):
        raise bad_request("stream must be true or false.", param="stream")
    if body.get("background"):
        # Its answer would be fetched from elsewhere, past the rails.
        raise bad_request("Background responses cannot be judged.", param="background")
    stream = body.get("stream") is True
    desk.note.asked_for(body.get("model"), streamed=stream)
    blocked = await _question(body, desk, large=len(await request.body()) >= LARGE_BYTES)
    if blocked is not None:
        return _blocked(instead(blocked), body, desk, stream=stream)
    headers = forwarded(request)
    try:
        if stream:
            source = await gateway.upstream.open("responses", body, headers)
            desk.note.upstream_s = desk.note.seconds
            events = guarded_response(source, desk=desk, guardian=gateway.service.guardian)
            return SseResponse(events, headers={**source.headers, **desk.headers()}, watch=False)
        reply = await gateway.upstream.ask("responses", body, headers)
    except UpstreamError as error:
        raise await as_problem(error, desk) from None
    desk.note.upstream_s = desk.note.seconds
    return await _answered(reply.body, gateway, desk, reply.headers)


async def _question(body: JsonObject, desk: Desk, *, large: bool) -> Blocked | None:
    rails, settings = desk.settings.rails, desk.settings
    instructions = text_in(body.get("instructions"))

    def read() -> tuple[Turn | InputError, History, dict[int, ToolOutput]]:
        messages = as_messages(body)
        history = read_history(messages, settings, instructions=instructions)
        ran = server_outputs(body.get("input"), messages, everything=settings.history == "all")
        history = replace(history, tool_outputs={**history.tool_outputs, **ran})
        if said := said_beside(body, known=RESPONSES_SETTINGS):
            history = replace(history, beside=(*history.beside, Check(said, rail="input")))
        outputs = read_tool_outputs(messages) if "tool_output" in rails else {}
        return read_question(messages, context_turns=settings.context_turns), history, outputs

    subject, history, outputs = await anyio.to_thread.run_sync(read) if large else read()
    outcome, withheld = await desk.question(subject if "input" in rails else None, history.under(rails), outputs)
    items = body.get("input")
    for index, text in withheld.items():
        if isinstance(items, list):
            items[index] = without_text(items[index], instead=text)
    without_own_ids(body)
    return outcome if isinstance(outcome, Blocked) else None


def _blocked(text: str, body: JsonObject, desk: Desk, *, stream: bool) -> Response:
    desk.note.finish_reasons.append(FILTERED)
    model, previous = body.get("model"), body.get("previous_response_id")
    shared: JsonObject = {"model": model if isinstance(model, str) else ""}
    if is_word(previous):
        shared["previous_response_id"] = previous
    whole = blocked_response(text, shared=shared, extension=desk.extension())
    if stream:
        return SseResponse(written(blocked_events(text, whole)), headers=desk.headers(), watch=False)
    return JSONResponse(whole, headers=desk.headers())


async def _answered(answer: JsonObject, gateway: Gateway, desk: Desk, headers: Mapping[str, str]) -> Response:
    if not isinstance(answer.get("output"), list):
        raise Problem(502, "upstream_invalid_answer", "The model behind the gateway sent no response object.")
    if "output" in gateway.settings.rails:
        [outcome] = await desk.answers([whole_answer(answer)])
        if isinstance(outcome, Blocked | Edited):
            kept: JsonObject = {key: answer[key] for key in ("id", "created_at", "model", "usage") if key in answer}
            answer = blocked_response(instead(outcome), shared=kept, extension={})
        elif not isinstance(outcome, Allowed):
            raise AssertionError("failures have been raised")
    desk.note.used(answer.get("usage"))
    desk.note.finish_reasons.append(str(as_object(answer.get("incomplete_details")).get("reason", "stop")))
    answer["guardrail"] = desk.extension()
    return JSONResponse(answer, headers={**headers, **desk.headers()})
