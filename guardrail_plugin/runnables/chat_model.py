"""A LangChain chat model that runs on the shared pool, beside the guardian."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import ConfigDict, Field, PrivateAttr

from guardrail_plugin.core.errors import InputError
from guardrail_plugin.models.chat import LocalChat
from guardrail_plugin.pool import InferencePool
from guardrail_plugin.pool.protocol import GenerateRequest

_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}


class PoolChatModel(BaseChatModel):
    """A local Hugging Face chat model on the inference pool.

    Attributes:
        model: hub id or folder; ``None`` is the embedded model (SmolLM2-135M-Instruct).
        pool: the pool that runs it.
        max_tokens: most new tokens.
        temperature: 0 is greedy.

    Does not: stop at strings that span tokens before they are complete; see ``stop`` in LangChain's interface, which is
    honoured on the text so far.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    model: str | None = None
    pool: InferencePool = Field(exclude=True, repr=False)
    max_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=0.0, ge=0.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    seed: int = 0

    _chat: LocalChat = PrivateAttr()

    def __init__(self, *, model: str | Path | None = None, pool: InferencePool, **settings: Any) -> None:
        super().__init__(model=str(model) if model is not None else None, pool=pool, **settings)
        self._chat = LocalChat.register(model, pool=pool)

    @property
    def _llm_type(self) -> str:
        return "guardrail-pool"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self._chat.key, "max_tokens": self.max_tokens, "temperature": self.temperature}

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        request = self._request(messages, kwargs)
        text = _Text(self._chat, stop)
        stream = self.pool.stream(request)
        try:
            for token_id in stream:
                chunk = text.add(token_id)
                if chunk is not None:
                    if run_manager is not None:
                        run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
                if text.stopped:
                    break
        finally:
            stream.close()
        yield text.end(len(request.input_ids))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        request = self._request(messages, kwargs)
        text = _Text(self._chat, stop)
        stream = self.pool.astream(request)
        try:
            async for token_id in stream:
                chunk = text.add(token_id)
                if chunk is not None:
                    if run_manager is not None:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
                if text.stopped:
                    break
        finally:
            await stream.aclose()
        yield text.end(len(request.input_ids))

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _joined(list(self._stream(messages, stop, **kwargs)))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _joined([chunk async for chunk in self._astream(messages, stop, **kwargs)])

    def _request(self, messages: Sequence[BaseMessage], options: dict[str, Any]) -> GenerateRequest:
        return GenerateRequest(
            self._chat.key,
            self._chat.encode([_as_dict(message) for message in messages]),
            max_new_tokens=int(options.get("max_tokens", self.max_tokens)),
            stop_ids=self._chat.stop_ids,
            temperature=float(options.get("temperature", self.temperature)),
            top_p=float(options.get("top_p", self.top_p)),
            seed=int(options.get("seed", self.seed)),
        )


class _Text:
    """Token ids → text that grows only by whole characters, cut at a stop string."""

    def __init__(self, chat: LocalChat, stop: list[str] | None) -> None:
        self._chat = chat
        self._stop = stop or []
        self._ids: list[int] = []
        self._shown = 0
        self.stopped = False

    def add(self, token_id: int) -> ChatGenerationChunk | None:
        self._ids.append(token_id)
        text = self._chat.template.decode(self._ids)
        for stop in self._stop:
            at = text.find(stop)
            if at >= 0:
                text, self.stopped = text[:at], True
        # Half of a character decodes to U+FFFD; a stop string may have begun. Neither is shown yet.
        shown = len(text.rstrip("\ufffd")) if self.stopped else self._safe_length(text.rstrip("\ufffd"))
        new, self._shown = text[self._shown : shown], max(self._shown, shown)
        return ChatGenerationChunk(message=AIMessageChunk(content=new)) if new else None

    def end(self, prompt_tokens: int) -> ChatGenerationChunk:
        rest = "" if self.stopped else self._chat.template.decode(self._ids)[self._shown :]
        usage = {
            "input_tokens": prompt_tokens,
            "output_tokens": len(self._ids),
            "total_tokens": prompt_tokens + len(self._ids),
        }
        message = AIMessageChunk(content=rest, usage_metadata=usage, chunk_position="last")
        return ChatGenerationChunk(message=message)

    def _safe_length(self, text: str) -> int:
        held = 0
        for stop in self._stop:
            for size in range(1, len(stop)):
                if text.endswith(stop[:size]):
                    held = max(held, size)
        return len(text) - held


def _as_dict(message: BaseMessage) -> dict[str, Any]:
    role = _ROLES.get(message.type)
    if role is None:
        raise InputError(f"a local chat model cannot read a message of type {message.type!r}")
    as_dict: dict[str, Any] = {"role": role, "content": str(message.text)}
    if isinstance(message, ToolMessage):
        as_dict["tool_call_id"] = message.tool_call_id
    return as_dict


def _joined(chunks: Sequence[ChatGenerationChunk]) -> ChatResult:
    text = "".join(chunk.text for chunk in chunks)
    last = chunks[-1].message
    usage = last.usage_metadata if isinstance(last, AIMessageChunk) else None
    return ChatResult(generations=[ChatGeneration(message=AIMessage(content=text, usage_metadata=usage))])
