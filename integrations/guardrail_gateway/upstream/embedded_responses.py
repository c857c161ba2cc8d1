"""OpenAI's Responses API over a model that has chat completions: the request as a chat, its chunks as events."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping

from guardrail_gateway.bodies import JsonObject, as_object
from guardrail_gateway.problems import bad_request
from guardrail_gateway.responses_messages import closed, numbered, opened, said, text_item
from guardrail_gateway.responses_reading import output_text
from guardrail_gateway.upstream.protocol import Stream
from guardrail_plugin.runnables.content import text_in

_ELSEWHERE = ("previous_response_id", "conversation", "prompt")
"""What refers to something that a server would have to keep."""

_SETTINGS = {"max_output_tokens": "max_completion_tokens", "temperature": "temperature", "top_p": "top_p"}
_ECHOED = ("instructions", "max_output_tokens", "metadata", "temperature", "tool_choice", "tools", "top_p", "user")


def as_chat(body: Mapping[str, object]) -> JsonObject:
    """Return a request as one for chat completions, streamed.

    Raises:
        Problem: it wants what the embedded model does not do: keep conversations, answer in a schema, read other items.
    """
    for key in _ELSEWHERE:
        if body.get(key) is not None:
            raise bad_request("Nothing is kept here: send the whole conversation as input.", param=key)
    if as_object(as_object(body.get("text")).get("format")).get("type", "text") != "text":
        raise bad_request("The embedded model answers in plain text only.", param="text")
    most = body.get("max_output_tokens")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise bad_request("max_output_tokens must be a whole number of at least 1.", param="max_output_tokens")
    told = body.get("instructions")
    given = body.get("input")
    items = given if isinstance(given, list) else [{"role": "user", "content": given}]
    messages: list[JsonObject] = [{"role": "system", "content": told}] if isinstance(told, str) and told else []
    messages += [message for item in items for message in _messages(as_object(item))]
    chat: JsonObject = {"messages": messages, "stream": True, "stream_options": {"include_usage": True}}
    chat |= {name: body[key] for key, name in _SETTINGS.items() if body.get(key) is not None}
    tools, choice = body.get("tools"), body.get("tool_choice")
    chat["tools"] = [_nested(tool) for tool in tools] if isinstance(tools, list) else None
    chat["tool_choice"] = _nested(choice) if isinstance(choice, dict) else choice
    return chat


def _messages(item: Mapping[str, object]) -> Iterator[JsonObject]:
    kind = item.get("type", "message")
    if kind == "message":
        role = item.get("role", "user")
        yield {"role": "system" if role == "developer" else role, "content": text_in(item.get("content"))}
    elif kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        yield {"role": "assistant", "content": "", "tool_calls": [call]}
    elif kind == "function_call_output":
        yield {"role": "tool", "tool_call_id": str(item.get("call_id", "")), "content": output_text(item.get("output"))}
    elif kind != "reasoning":
        raise bad_request("input holds an item of a kind that the embedded model cannot read.", param="input")


def _nested(tool: object) -> JsonObject:
    function = {key: value for key, value in as_object(tool).items() if key != "type"}
    return {"type": "function", "function": function}


class ResponseStream:
    """A chat completion's chunks, told as the events of a response."""

    def __init__(self, source: Stream, body: Mapping[str, object], *, model: str) -> None:
        self.headers: Mapping[str, str] = {}
        self._source = source
        self._sequence = 0
        self._response: JsonObject = {
            "id": f"resp_{uuid.uuid4().hex[:24]}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "tools": [],
            "tool_choice": "auto",
            **{key: body[key] for key in _ECHOED if body.get(key) is not None},
            "model": model,
            "output": [],
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "store": False,
            "text": {"format": {"type": "text"}},
            "usage": None,
        }
        self._events = self._read()

    def __aiter__(self) -> ResponseStream:
        return self

    async def __anext__(self) -> JsonObject:
        """Return the next event."""
        return await self._events.__anext__()

    async def joined(self) -> JsonObject:
        """Return the response as one object."""
        async for _ in self._events:
            pass
        return self._response

    async def aclose(self) -> None:
        """Stop the decode."""
        await self._events.aclose()
        await self._source.aclose()

    async def _read(self) -> AsyncGenerator[JsonObject, None]:
        for event in self._numbered({"type": f"response.{kind}"} for kind in ("created", "in_progress")):
            yield {**event, "response": dict(self._response)}
        item, text, calls = text_item(""), "", list[object]()
        finish, usage = "stop", JsonObject()
        async for chunk in self._source:
            choices = chunk.get("choices")
            choice = as_object(choices[0]) if isinstance(choices, list) and choices else {}
            delta = as_object(choice.get("delta"))
            if isinstance(piece := delta.get("content"), str) and piece:
                for event in self._numbered([*(() if text else opened(item, index=0)), said(item, piece, index=0)]):
                    yield event
                text += piece
            if isinstance(more := delta.get("tool_calls"), list):
                calls += more
            finish = str(choice.get("finish_reason") or finish)
            usage = dict(as_object(chunk.get("usage"))) or usage
        cut = finish == "length"
        for event in self._numbered(self._end(item, text, calls, cut=cut, usage=usage)):
            yield event

    def _end(
        self, item: JsonObject, text: str, calls: Iterable[object], *, cut: bool, usage: Mapping[str, object]
    ) -> Iterator[JsonObject]:
        output: list[JsonObject] = []
        status = "incomplete" if cut else "completed"
        made = [_call_item(as_object(call)) for call in calls]
        if text or not made:
            output.append(text_item(text, item_id=str(item["id"]), status=status))
            yield from () if text else opened(item, index=0)
            yield from closed(output[0], text, index=0)
        for call in made:
            yield from _call_events(call, index=len(output))
            output.append(call)
        details = {"reason": "max_output_tokens"} if cut else None
        ended = {"status": status, "incomplete_details": details, "output": output, "usage": _usage(usage)}
        self._response = {**self._response, **ended}
        yield {"type": f"response.{status}", "response": self._response}

    def _numbered(self, events: Iterable[JsonObject]) -> Iterator[JsonObject]:
        for event in numbered(events, start=self._sequence):
            self._sequence += 1
            yield event


def _call_item(call: Mapping[str, object]) -> JsonObject:
    function = as_object(call.get("function"))
    return {
        "id": f"fc_{uuid.uuid4().hex[:24]}",
        "type": "function_call",
        "status": "completed",
        "call_id": call.get("id"),
        "name": function.get("name"),
        "arguments": function.get("arguments"),
    }


def _call_events(item: JsonObject, *, index: int) -> Iterator[JsonObject]:
    place = {"item_id": item["id"], "output_index": index}
    begun = {**item, "status": "in_progress", "arguments": ""}
    yield {"type": "response.output_item.added", "output_index": index, "item": begun}
    yield {"type": "response.function_call_arguments.delta", **place, "delta": item["arguments"]}
    yield {
        "type": "response.function_call_arguments.done",
        **place,
        "name": item["name"],
        "arguments": item["arguments"],
    }
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def _usage(told: Mapping[str, object]) -> JsonObject:
    return {
        "input_tokens": told.get("prompt_tokens", 0),
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": told.get("completion_tokens", 0),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": told.get("total_tokens", 0),
    }
