"""A LangChain chat model that runs on the shared pool, beside the guardian."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import agenerate_from_stream, generate_from_stream
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from pydantic import ConfigDict, Field, PrivateAttr

from guardrail_plugin.core.dtype import Dtype, dtype_named
from guardrail_plugin.core.errors import ConfigError, PoolOverloaded
from guardrail_plugin.models.chat import LocalChat
from guardrail_plugin.pool import InferencePool
from guardrail_plugin.pool.protocol import GenerateRequest
from guardrail_plugin.runnables.chat_answers import CALL_OPENS, Answer, forced_call
from guardrail_plugin.runnables.chat_messages import template_messages, template_tools


class PoolChatModel(BaseChatModel):
    """A local Hugging Face chat model on the inference pool.

    Attributes:
        model: hub id or folder; ``None`` is the embedded model (SmolLM2-135M-Instruct).
        revision: commit, tag or branch of the model's hub repository.
        adapter: folder of a PEFT adapter to merge into it.
        dtype: number format of the weights; see ``Guardian.load``.
        pool: the pool that runs it.
        max_tokens: most new tokens.
        temperature: 0 is greedy.
        stop: strings that end every answer.
        timeout_s: for one answer, its wait in the queue included; also accepted as ``timeout``.
        max_retries: how often an answer that a full pool did not take is asked for again, after the pause it names.

    Does not: read images; constrain tokens to a schema. A forced tool call is begun for the model, not enforced.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", populate_by_name=True)

    model: str | None = None
    revision: str | None = None
    adapter: Path | None = None
    dtype: Dtype = "auto"
    pool: InferencePool = Field(exclude=True, repr=False)
    max_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=0.0, ge=0.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    seed: int = 0
    stop: list[str] = Field(default_factory=list)
    timeout_s: float | None = Field(default=None, gt=0, alias="timeout")
    max_retries: int = Field(default=0, ge=0)
    streaming: bool = False

    _chat: LocalChat = PrivateAttr()

    def __init__(
        self, *, model: str | Path | None = None, pool: InferencePool, dtype: Dtype = "auto", **settings: Any
    ) -> None:
        name = str(model) if model is not None else None
        super().__init__(model=name, pool=pool, dtype=dtype_named(dtype), **settings)
        self._chat = self._register()

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Show tools to the model through its template.

        Raises:
            ConfigError: the template shows no tools, or ``tool_choice`` names none of them.
        """
        if not self._chat.template.renders_tools:
            raise ConfigError(f"the chat template of {self._chat.key} has no place for tools")
        return self.bind(**template_tools(tools, tool_choice), **kwargs)

    @property
    def _llm_type(self) -> str:
        return "guardrail-pool"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        # LangChain's cache goes by these. "stop" is the name of a call's own.
        return {
            "model": self._chat.key,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "stop_strings": tuple(self.stop),
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        named = {"model": self._chat.key, "max_tokens": self.max_tokens, "temperature": self.temperature, **kwargs}
        return LangSmithParams({**super()._get_ls_params(stop=stop, **named), "ls_provider": "guardrail"})

    def _register(self) -> LocalChat:
        return LocalChat.register(
            self.model, revision=self.revision, adapter=self.adapter, pool=self.pool, dtype=self.dtype
        )

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, **kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await agenerate_from_stream(self._astream(messages, stop, **kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        request, answer = self._asked(messages, stop, kwargs)
        with closing(self._token_ids(request)) as token_ids:
            for token_id in token_ids:
                chunk = answer.add(token_id)
                if chunk is not None:
                    if run_manager is not None:
                        run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
                if answer.stopped:
                    break
        yield self._end(request, answer)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        request, answer = self._asked(messages, stop, kwargs)
        async with aclosing(self._atoken_ids(request)) as token_ids:
            async for token_id in token_ids:
                chunk = answer.add(token_id)
                if chunk is not None:
                    if run_manager is not None:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
                if answer.stopped:
                    break
        yield self._end(request, answer)

    def _token_ids(self, request: GenerateRequest) -> Generator[int, None, None]:
        """Decode; a full pool refuses before the first token, so asking again repeats nothing."""
        for attempt in range(self.max_retries + 1):
            try:
                with closing(self.pool.stream(request, timeout_s=self.timeout_s)) as stream:
                    yield from stream
                return
            except PoolOverloaded as busy:
                if attempt == self.max_retries:
                    raise
                pause_s = busy.retry_after_s
            time.sleep(pause_s)

    async def _atoken_ids(self, request: GenerateRequest) -> AsyncGenerator[int, None]:
        for attempt in range(self.max_retries + 1):
            try:
                async with aclosing(self.pool.astream(request, timeout_s=self.timeout_s)) as stream:
                    async for token_id in stream:
                        yield token_id
                return
            except PoolOverloaded as busy:
                if attempt == self.max_retries:
                    raise
                pause_s = busy.retry_after_s
            await asyncio.sleep(pause_s)

    def _asked(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, options: Mapping[str, Any]
    ) -> tuple[GenerateRequest, Answer]:
        tools, choice = options.get("tools"), options.get("tool_choice")
        ids = self._chat.encode(template_messages(messages), **({"tools": tools} if tools else {}))
        begun = ""
        if tools and choice:
            begun = forced_call(choice, tagged=CALL_OPENS in self._chat.template.source)
            ids = (*ids, *self._chat.template.template_ids(begun))
        request = GenerateRequest(
            self._chat.key,
            ids,
            max_new_tokens=int(options.get("max_tokens", self.max_tokens)),
            stop_ids=self._chat.stop_ids,
            temperature=float(options.get("temperature", self.temperature)),
            top_p=float(options.get("top_p", self.top_p)),
            seed=int(options.get("seed", self.seed)),
        )
        stops = self.stop if stop is None else stop
        return request, Answer(self._chat.template.decode, stop=stops, calls_tools=bool(tools), begun=begun)

    def _end(self, request: GenerateRequest, answer: Answer) -> ChatGenerationChunk:
        return answer.end(
            prompt_tokens=len(request.input_ids), most_tokens=request.max_new_tokens, model_name=self._chat.key
        )
