"""``POST /v1/chat/completions``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from guardrail_fastapi import SseResponse
from guardrail_gateway.bodies import JsonObject, as_object
from guardrail_gateway.chat_stream import blocked_stream, guarded_stream
from guardrail_gateway.completions import blocked_choice, blocked_completion, instead, without_unknown
from guardrail_gateway.desk import Desk
from guardrail_gateway.gateway import LARGE_BYTES, Gateway, as_problem, body_of, desk_of, forwarded, gateway_of
from guardrail_gateway.history import History, read_history
from guardrail_gateway.parameters import said_beside
from guardrail_gateway.problems import Problem, bad_request
from guardrail_gateway.reading import ToolOutput, read_question, read_tool_outputs, whole_choice
from guardrail_gateway.steps import withheld_message
from guardrail_gateway.upstream import Reply, UpstreamError
from guardrail_plugin import Check, InputError
from guardrail_plugin.flow import Allowed, Blocked, Failed
from guardrail_plugin.runnables.views import Turn

_MAX_CHOICES = 128


async def chat(request: Request) -> Response:
    """Judge, ask the upstream, judge what it answers. Cancellation: nothing is left running."""
    gateway, desk = gateway_of(request), desk_of(request, operation="chat")
    body = await body_of(request)
    stream, choices = body.get("stream") is True, _choices(body)
    desk.note.asked_for(body.get("model"), streamed=stream)
    blocked = await _question(body, desk, large=len(await request.body()) >= LARGE_BYTES)
    if blocked is not None:
        return _blocked(blocked, body, desk, stream=stream, choices=choices)
    headers = forwarded(request)
    try:
        if stream:
            source = await gateway.upstream.open("chat/completions", body, headers)
            desk.note.upstream_s = desk.note.seconds
            events = guarded_stream(source, desk=desk, guardian=gateway.service.guardian, choices=choices)
            return SseResponse(events, headers={**source.headers, **desk.headers()}, watch=False)
        reply = await gateway.upstream.ask("chat/completions", body, headers)
    except UpstreamError as error:
        raise await as_problem(error, desk) from None
    desk.note.upstream_s = desk.note.seconds
    return await _answered(reply, gateway, desk)


def _choices(body: JsonObject) -> int:
    asked = body.get("n", 1)
    asked = 1 if asked is None else asked
    if isinstance(asked, bool) or not isinstance(asked, int) or not 1 <= asked <= _MAX_CHOICES:
        raise bad_request(f"n must be a whole number from 1 to {_MAX_CHOICES}.", param="n")
    if body.get("stream") not in (None, True, False):
        raise bad_request("stream must be true or false.", param="stream")
    return asked


async def _question(body: JsonObject, desk: Desk, *, large: bool) -> Blocked | None:
    """Judge a conversation; withhold what tools returned where it does not pass, in the body itself."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad_request("messages must be a list of messages.", param="messages")
    rails, turns = desk.settings.rails, desk.settings.context_turns

    def read() -> tuple[Turn | InputError, History, dict[int, ToolOutput]]:
        outputs = read_tool_outputs(messages) if "tool_output" in rails else {}
        history = read_history(messages, desk.settings)
        if said := said_beside(body):
            history = replace(history, beside=(*history.beside, Check(said, rail="input")))
        return read_question(messages, context_turns=turns), history, outputs

    subject, history, outputs = await anyio.to_thread.run_sync(read) if large else read()
    outcome, withheld = await desk.question(subject if "input" in rails else None, history.under(rails), outputs)
    for index, text in withheld.items():
        messages[index] = withheld_message(messages[index], text)
    return outcome if isinstance(outcome, Blocked) else None


def _blocked(outcome: Blocked, body: JsonObject, desk: Desk, *, stream: bool, choices: int) -> Response:
    model, extension, text = body.get("model"), desk.extension(), instead(outcome)
    desk.note.finish_reasons.append("content_filter")
    if stream:
        events = blocked_stream(text, model=model, choices=choices, extension=extension)
        return SseResponse(events, headers=desk.headers(), watch=False)
    answer = blocked_completion(text, model=model, choices=choices, extension=extension)
    return JSONResponse(answer, headers=desk.headers())


async def _answered(reply: Reply, gateway: Gateway, desk: Desk) -> Response:
    answer = reply.body
    choices = _read_choices(answer)
    if "output" in gateway.settings.rails:
        outcomes = await desk.answers([whole_choice(answer, choice, first=not i) for i, choice in enumerate(choices)])
        judged: list[object] = []
        for index, (choice, outcome) in enumerate(zip(choices, outcomes, strict=True)):
            if isinstance(outcome, Failed):
                raise Problem.of(outcome.error)
            judged.append(choice if isinstance(outcome, Allowed) else blocked_choice(index, instead(outcome)))
        if not choices or not all(isinstance(outcome, Allowed) for outcome in outcomes):
            answer = without_unknown(answer)
        answer["choices"] = judged
    desk.note.used(answer.get("usage"))
    finished = answer["choices"] if isinstance(answer["choices"], list) else []
    desk.note.finish_reasons += [str(as_object(choice).get("finish_reason")) for choice in finished]
    answer["guardrail"] = desk.extension()
    return JSONResponse(answer, headers={**reply.headers, **desk.headers()})


def _read_choices(answer: JsonObject) -> Sequence[JsonObject]:
    choices = answer.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise Problem(502, "upstream_invalid_answer", "The model behind the gateway sent no chat completion.")
    return choices
