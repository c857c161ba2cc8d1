"""A chat model that says what a script says, chunk by chunk, and knows what became of its streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from pydantic import PrivateAttr
from typing_extensions import override

Turn = Sequence[str | AIMessageChunk]


class ScriptedModel(BaseChatModel):
    """Answers its calls turn by turn; the last turn is repeated.

    Attributes:
        calls: how many were made.
        asked: the messages of each call.
        emitted: chunks that were read from it, over all calls.
        ended: how each stream ended: ``"read"`` to its end, or ``"closed"`` before.
    """

    _turns: list[list[AIMessageChunk]] = PrivateAttr()
    _asked: list[list[BaseMessage]] = PrivateAttr(default_factory=list)
    _emitted: int = PrivateAttr(default=0)
    _ended: list[str] = PrivateAttr(default_factory=list)

    def __init__(self, *turns: Turn) -> None:
        super().__init__()
        self._turns = [_chunks(turn, number) for number, turn in enumerate(turns)]

    @property
    def calls(self) -> int:
        """Number of calls."""
        return len(self._asked)

    @property
    def asked(self) -> list[list[BaseMessage]]:
        """What each call was given."""
        return self._asked

    @property
    def emitted(self) -> int:
        """Number of chunks that somebody read."""
        return self._emitted

    @property
    def ended(self) -> list[str]:
        """How its streams ended."""
        return self._ended

    @property
    @override
    def _llm_type(self) -> str:
        return "scripted"

    @override
    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        """Take any tools: the script knows when to call them."""
        return self

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        whole: AIMessageChunk | None = None
        for chunk in self._turn(messages):
            self._emitted += 1
            whole = chunk if whole is None else whole + chunk
        self._ended.append("read")
        return ChatResult(generations=[ChatGeneration(message=_message(whole))])

    @override
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        how = "closed"
        try:
            for chunk in self._turn(messages):
                self._emitted += 1
                made = ChatGenerationChunk(message=chunk)
                if run_manager is not None:
                    run_manager.on_llm_new_token(made.text, chunk=made)
                yield made
            how = "read"
        finally:
            self._ended.append(how)

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        how = "closed"
        try:
            for chunk in self._turn(messages):
                await asyncio.sleep(0)
                self._emitted += 1
                made = ChatGenerationChunk(message=chunk)
                if run_manager is not None:
                    await run_manager.on_llm_new_token(made.text, chunk=made)
                yield made
            how = "read"
        finally:
            self._ended.append(how)

    def _turn(self, messages: list[BaseMessage]) -> list[AIMessageChunk]:
        self._asked.append(list(messages))
        turn = self._turns[min(len(self._asked), len(self._turns)) - 1]
        # LangChain writes run ids into the chunks it is given.
        return [chunk.model_copy() for chunk in turn]


def _chunks(turn: Turn, number: int) -> list[AIMessageChunk]:
    chunks = [AIMessageChunk(content=part) if isinstance(part, str) else part for part in turn]
    usage = {"input_tokens": 7, "output_tokens": len(chunks), "total_tokens": 7 + len(chunks)}
    last = AIMessageChunk(content="", usage_metadata=usage, chunk_position="last")
    return [chunk.model_copy(update={"id": f"scripted-{number}"}) for chunk in (*chunks, last)]


def _message(whole: AIMessageChunk | None) -> AIMessage:
    if whole is None:
        return AIMessage("")
    return AIMessage(
        content=whole.content,
        id=whole.id,
        additional_kwargs=whole.additional_kwargs,
        response_metadata=whole.response_metadata,
        tool_calls=whole.tool_calls,
        invalid_tool_calls=whole.invalid_tool_calls,
        usage_metadata=whole.usage_metadata,
    )
