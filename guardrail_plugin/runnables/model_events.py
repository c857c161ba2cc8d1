"""LangChain's v3 events of a chat model that makes a copy of itself for each call."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import TYPE_CHECKING, Any, Literal, overload

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.schema import StreamEvent
from typing_extensions import override

if TYPE_CHECKING:
    # Older versions of LangChain have neither these nor v3 events.
    from langchain_core.language_models.chat_model_stream import AsyncChatModelStream, ChatModelStream


class CopiedForCalls(BaseChatModel):
    """A chat model whose copies know the config of their call, from which LangChain keeps a model's own methods.

    LangChain makes the events of other versions from ``astream``; those of v3 it takes from ``_stream`` directly.
    """

    @abstractmethod
    def _copied(self, config: RunnableConfig | None) -> tuple[BaseChatModel, RunnableConfig]:
        """Return a copy that is used for one call, and the config with which to call it."""

    @overload  # type: ignore[override]
    def stream_events(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        version: Literal["v1", "v2"] = "v2",
        **kwargs: Any,
    ) -> Iterator[StreamEvent]: ...

    @overload
    def stream_events(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        version: Literal["v3"],
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> ChatModelStream: ...

    @override
    def stream_events(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        version: Literal["v1", "v2", "v3"] = "v2",
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[StreamEvent] | ChatModelStream:
        if version != "v3":
            return super().stream_events(input, config, version=version, stop=stop, **kwargs)
        model, heard = self._copied(config)
        return BaseChatModel.stream_events(model, input, heard, version="v3", stop=stop, **kwargs)

    @overload
    def astream_events(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        version: Literal["v1", "v2"] = "v2",
        **kwargs: Any,
    ) -> AsyncIterator[StreamEvent]: ...

    @overload
    def astream_events(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        version: Literal["v3"],
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Awaitable[AsyncChatModelStream]: ...

    @override
    def astream_events(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        version: Literal["v1", "v2", "v3"] = "v2",
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[StreamEvent] | Awaitable[AsyncChatModelStream]:
        if version != "v3":
            return super().astream_events(input, config, version=version, stop=stop, **kwargs)
        model, heard = self._copied(config)
        return BaseChatModel.astream_events(model, input, heard, version="v3", stop=stop, **kwargs)
