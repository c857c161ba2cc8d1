"""The embedded model as an OpenAI-compatible API: what answers when there is no upstream."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field

from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages

from guardrail_gateway.bodies import JsonObject, as_object
from guardrail_gateway.problems import bad_request
from guardrail_gateway.upstream.embedded_responses import ResponseStream, as_chat
from guardrail_gateway.upstream.protocol import Endpoint, Reply, UpstreamError
from guardrail_gateway.upstream.tool_calls import forced_call
from guardrail_plugin import GuardrailError, InferencePool, InputError
from guardrail_plugin.core.dtype import Dtype
from guardrail_plugin.runnables.chat_model import PoolChatModel

_DEFAULT_TOKENS = 256
_MAX_TOKENS = 1024
"""Most new tokens of one answer: 135M parameters say nothing more after that."""

_MAX_PROMPT_CHARS = 24_000
"""About the model's 8,192 tokens. Longer conversations are refused, as other servers do."""


@dataclass(frozen=True, slots=True)
class _Options:
    max_tokens: int
    settings: Mapping[str, object]
    stop: list[str] | None
    usage: bool

    @classmethod
    def read(cls, body: JsonObject) -> _Options:
        if body.get("n") not in (None, 1):
            raise bad_request("The embedded model gives one choice.", param="n")
        asked = body.get("max_completion_tokens") or body.get("max_tokens") or _DEFAULT_TOKENS
        if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
            raise bad_request("max_tokens must be a whole number of at least 1.", param="max_tokens")
        settings = {key: _number(key, body[key]) for key in ("temperature", "top_p") if body.get(key) is not None}
        seed = body.get("seed")
        if isinstance(seed, int):
            settings["seed"] = seed
        stop = body.get("stop")
        stops = [stop] if isinstance(stop, str) else stop
        if stops is not None and not (isinstance(stops, list) and all(isinstance(s, str) and s for s in stops)):
            raise bad_request("stop must be text, or a list of texts.", param="stop")
        usage = bool(as_object(body.get("stream_options")).get("include_usage"))
        return cls(min(asked, _MAX_TOKENS), settings, stops, usage)


def _number(key: str, value: object) -> float:
    limit = 2.0 if key == "temperature" else 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= limit:
        raise bad_request(f"{key} must be a number from 0 to {limit:g}.", param=key)
    return max(float(value), 1e-6) if key == "top_p" else float(value)


class EmbeddedUpstream:
    """Runs SmolLM2-135M-Instruct on the guardian's own pool.

    Tools: a 135M model cannot choose a tool. With ``tool_choice`` "required" or a named function, it fills in that
    function's arguments; with "auto" it answers in text.
    """

    provider = "guardrail"

    def __init__(self, pool: InferencePool, *, dtype: Dtype = "auto") -> None:
        """Register the model with the pool. Its weights are read, in ``dtype``, when it is first asked.

        Raises:
            ModelNotFoundError, MissingDependencyError: it is not installed.
        """
        self._pool = pool
        self._model = PoolChatModel(pool=pool, dtype=dtype)
        self.model_id = str(self._model._identifying_params["model"]).removeprefix("chat:").partition("+")[0]

    async def ask(self, endpoint: Endpoint, body: JsonObject, headers: Mapping[str, str]) -> Reply:
        """Return the whole answer. Cancellation: the decode is stopped."""
        stream = await self.open(endpoint, body, headers)
        try:
            return Reply(await stream.joined())
        finally:
            await stream.aclose()

    async def open(
        self, endpoint: Endpoint, body: JsonObject, headers: Mapping[str, str]
    ) -> EmbeddedStream | ResponseStream:
        """Begin a streamed answer."""
        if endpoint == "responses":
            return ResponseStream(await self._chat(as_chat(body)), body, model=self.model_id)
        return await self._chat(body)

    async def _chat(self, body: JsonObject) -> EmbeddedStream:
        options = _Options.read(body)
        messages = await asyncio.to_thread(_messages, body)
        call = await forced_call(body, messages, pool=self._pool, max_tokens=options.max_tokens)
        head: JsonObject = {
            "id": f"chatcmpl-{uuid.uuid4().hex[:24]}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": self.model_id,
        }
        if call is not None:
            return EmbeddedStream(head, _called(call), usage=options.usage)
        return EmbeddedStream(head, self._answer(messages, options), usage=options.usage)

    async def models(self, headers: Mapping[str, str]) -> Reply:
        """Return the one model."""
        entry: JsonObject = {"id": self.model_id, "object": "model", "created": 0, "owned_by": "guardrail"}
        return Reply({"object": "list", "data": [entry]})

    async def aclose(self) -> None:
        """Do nothing: the pool is not this upstream's."""

    async def _answer(self, messages: list[BaseMessage], options: _Options) -> AsyncGenerator[_Piece, None]:
        settings = {**options.settings, "max_tokens": options.max_tokens}
        chunks = self._model.astream(messages, stop=options.stop, **settings)  # type: ignore[arg-type]
        usage: Mapping[str, object] = {}
        try:
            async for chunk in chunks:
                usage = dict(chunk.usage_metadata or {}) or usage
                if text := str(chunk.text):
                    yield _Piece({"content": text})
        except InputError as error:
            raise bad_request(str(error), param="messages") from None
        except GuardrailError as error:
            raise UpstreamError(503, "model_unavailable") from error
        full = usage.get("output_tokens") == options.max_tokens
        yield _Piece({}, "length" if full else "stop", usage)


@dataclass(frozen=True, slots=True)
class _Piece:
    delta: JsonObject = field(repr=False)
    finish_reason: str | None = None
    usage: Mapping[str, object] = field(default_factory=dict)


async def _called(call: JsonObject) -> AsyncGenerator[_Piece, None]:
    yield _Piece({"content": None, "tool_calls": [{"index": 0, **call}]})
    yield _Piece({}, "tool_calls")


class EmbeddedStream:
    """One answer of the embedded model, as OpenAI's chunks."""

    def __init__(self, head: JsonObject, pieces: AsyncGenerator[_Piece, None], *, usage: bool) -> None:
        self.headers: Mapping[str, str] = {}
        self._head = head
        self._pieces = pieces
        self._show_usage = usage
        self._events = self._read()

    def __aiter__(self) -> EmbeddedStream:
        return self

    async def __anext__(self) -> JsonObject:
        """Return the next chunk."""
        return await self._events.__anext__()

    async def _read(self) -> AsyncGenerator[JsonObject, None]:
        yield self._chunk(_Piece({"role": "assistant", "content": ""}))
        usage: Mapping[str, object] = {}
        async for piece in self._pieces:
            usage = piece.usage or usage
            yield self._chunk(piece)
        if self._show_usage:
            yield {**self._head, "choices": [], "usage": _usage(usage)}

    async def joined(self) -> JsonObject:
        """Return the answer as one object."""
        content: list[str] = []
        message: JsonObject = {"role": "assistant", "content": None, "refusal": None}
        finish, usage = "stop", _usage({})
        async for piece in self._pieces:
            content.append(str(piece.delta.get("content") or ""))
            calls = piece.delta.get("tool_calls")
            if isinstance(calls, list):
                message["tool_calls"] = [{k: v for k, v in call.items() if k != "index"} for call in calls]
            finish = piece.finish_reason or finish
            usage = _usage(piece.usage) if piece.usage else usage
        if "tool_calls" not in message:
            message["content"] = "".join(content)
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": usage}

    async def aclose(self) -> None:
        """Stop the decode."""
        await self._events.aclose()
        await self._pieces.aclose()

    def _chunk(self, piece: _Piece) -> JsonObject:
        choice = {"index": 0, "delta": piece.delta, "logprobs": None, "finish_reason": piece.finish_reason}
        return {**self._head, "choices": [choice]}


def _usage(told: Mapping[str, object]) -> JsonObject:
    return {
        "prompt_tokens": told.get("input_tokens", 0),
        "completion_tokens": told.get("output_tokens", 0),
        "total_tokens": told.get("total_tokens", 0),
    }


def _messages(body: JsonObject) -> list[BaseMessage]:
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        raise bad_request("messages must be a list of messages.", param="messages")
    characters = sum(len(str(as_object(message).get("content") or "")) for message in given)
    if characters > _MAX_PROMPT_CHARS:
        raise bad_request("The conversation is too long for the embedded model.", code="context_length_exceeded")
    # OpenAI lets a message that only calls tools go without content; LangChain does not.
    whole = [{"content": "", **turn} if as_object(turn).get("role") == "assistant" else turn for turn in given]
    try:
        return [_plain(message) for message in convert_to_messages(whole)]
    except Exception:
        # LangChain's message quotes the input, so it is dropped.
        raise bad_request("messages holds something that is not a message.", param="messages") from None


def _plain(message: BaseMessage) -> BaseMessage:
    """Return a message with its tool calls as text: the model's template has no place for them."""
    if not isinstance(message, AIMessage) or not message.tool_calls:
        return message
    calls = [f"{call['name']} {json.dumps(call['args'])}" for call in message.tool_calls]
    return AIMessage("\n".join([str(message.text), *calls]).strip())
