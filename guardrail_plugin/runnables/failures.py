"""What a chain that nobody may overhear raises: errors quote answers, and no rail has judged these.

A parser's error holds the whole answer, a validator's the part that it dislikes, a function's whatever it was written
to hold. So an error leaves as it came only where it cannot quote the model:

- Always: errors of this library, cancellation and the like, LangGraph's control flow.
- Before anything was said: whatever the chain raises, so that mistakes in a prompt and refused keys are told. That is
  known where LangChain's chat models answer and none has been heard; a function that calls a model by other ways could
  have been answered. Errors that are made to quote text (parsers', validators') do not count as such.
- After that: no answer came (limits of time or steps, connections, a provider's HTTP status): callers retry on these.

In place of all others comes a ``ChainError``. What an error that leaves was raised from is cut off by the same rule.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from json import JSONDecodeError
from typing import Any, TypeVar

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable
from pydantic import ValidationError
from typing_extensions import override

from guardrail_plugin.core.errors import ChainError, GuardrailError
from guardrail_plugin.runnables.streams import closing

T = TypeVar("T")

_CONTROL = frozenset({"langgraph.GraphBubbleUp"})
_QUOTING = frozenset({"openai.LengthFinishReasonError", "openai.APIResponseValidationError"})
_QUOTING_WORDS = ("failed_generation", "error parsing tool call")
"""Groq's and Ollama's errors about a tool call that they could not read go on with the call."""

_NO_ANSWER = frozenset(
    {
        "openai.APIError", "anthropic.APIError", "httpx.TransportError", "httpx2.TransportError",
        "langgraph.NodeTimeoutError",
    }
)  # fmt: skip
_RETRIED = frozenset({401, 403, 404, 408, 409, 425, 429})
"""Statuses below 500 whose errors tell of the call, not of its content."""


class Heard(BaseCallbackHandler):
    """Listens to one detached run only for whether a model has spoken, and decides about what it raises."""

    run_inline = True  # in async calls: a thread per event would cost more than the note

    def __init__(self, runnable: Runnable[Any, Any]) -> None:
        """Listen for a runnable's call."""
        self._runnable = runnable
        self._began = self._spoke = False

    @override
    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self._began = True

    @override
    def on_llm_start(self, *args: Any, **kwargs: Any) -> None:
        self._began = True

    @override
    def on_llm_new_token(self, *args: Any, **kwargs: Any) -> None:
        self._spoke = True

    @override
    def on_stream_event(self, *args: Any, **kwargs: Any) -> None:
        self._spoke = True

    @override
    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        self._spoke = True

    def call(self, work: Callable[[], T]) -> T:
        """Run a piece of the chain.

        Raises:
            ChainError: in place of an error that could quote the model.
        """
        try:
            return work()
        except BaseException as error:
            told = self.told(error)
        # Out here: an error that is raised while another is handled holds that one.
        raise told

    async def acall(self, work: Callable[[], Awaitable[T]]) -> T:
        """Like ``call``. Cancellation: passes."""
        try:
            return await work()
        except BaseException as error:
            told = self.told(error)
        raise told

    async def achunks(self, chunks: Callable[[], AsyncIterator[T]]) -> AsyncIterator[T]:
        """Pass a stream on; raises as ``call``. Cancellation: closes it, then passes."""
        try:
            async with closing(chunks()) as source:
                async for chunk in source:
                    yield chunk
            return
        except BaseException as error:
            told = self.told(error)
        raise told

    def told(self, error: BaseException) -> BaseException:
        """Return what the caller and the traces get to see of an error."""
        try:
            return self._told(error)
        except Exception:
            # It could not be looked at: its own methods failed.
            return ChainError(type(error).__name__, place=_place(error))

    def _told(self, error: BaseException) -> BaseException:
        silent = self._silent()
        if _always(error) or (_no_answer(error) and not _quotes(error)):
            return _cut(error, silent=silent)
        if silent and not any(_quotes(link) for link in _chain(error)):
            return error
        return ChainError(type(error).__name__, place=_place(error))

    def _silent(self) -> bool:
        """Tell whether it is known that no model has answered."""
        return not self._spoke and (self._began or _holds_chat_model(self._runnable))


def listeners(callbacks: object) -> list[BaseCallbackHandler]:
    """Return those of a config's callbacks that are such listeners: an outer one hears what an inner one hears."""
    handlers = callbacks if isinstance(callbacks, list) else getattr(callbacks, "handlers", [])
    return [handler for handler in handlers if isinstance(handler, Heard)]


def _always(error: BaseException) -> bool:
    return not isinstance(error, Exception) or isinstance(error, GuardrailError) or _named(error, _CONTROL)


def _no_answer(error: BaseException) -> bool:
    """Tell whether an error is of a kind that comes in place of an answer."""
    status = _status(error)
    if status is not None:
        return status in _RETRIED or status >= 500
    kinds = (TimeoutError, asyncio.TimeoutError, ConnectionError, RecursionError)
    return isinstance(error, kinds) or _named(error, _NO_ANSWER)


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that a provider's own error carries; those of HTTP clients quote the address."""
    status = getattr(error, "status_code", None)
    if status is None and _named(error, frozenset({"google.GoogleAPICallError"})):
        status = getattr(error, "code", None)
    if status is None and _named(error, frozenset({"botocore.ClientError"})):
        response = getattr(error, "response", {})
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    return int(status) if isinstance(status, int) else None


def _quotes(error: BaseException) -> bool:
    """Tell whether an error is of a kind that is made to quote text."""
    members = getattr(error, "exceptions", ())
    if isinstance(members, tuple | list) and any(_quotes(one) for one in members if isinstance(one, BaseException)):
        return True
    if isinstance(error, OutputParserException | ValidationError | JSONDecodeError) or _named(error, _QUOTING):
        return True
    return any(word in str(error) for word in _QUOTING_WORDS)


def _named(error: BaseException, names: frozenset[str]) -> bool:
    # By name: none of these packages is imported for this.
    return any(f"{kind.__module__.partition('.')[0]}.{kind.__name__}" in names for kind in type(error).__mro__)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that it was raised from, or while handling."""
    found, waiting = {id(error)}, [error]
    while waiting:
        link = waiting.pop()
        yield link
        for inner in (link.__cause__, link.__context__):
            if inner is not None and id(inner) not in found:
                found.add(id(inner))
                waiting.append(inner)


def _cut(error: BaseException, *, silent: bool) -> BaseException:
    for link in _chain(error):
        for name in ("__cause__", "__context__"):
            inner = getattr(link, name)
            if inner is not None and not _always(inner) and (_quotes(inner) or not (silent or _no_answer(inner))):
                setattr(link, name, None)
    return error


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}"


def _holds_chat_model(runnable: Runnable[Any, Any]) -> bool:
    try:
        parts = [node.data for node in runnable.get_graph().nodes.values()]
    except Exception:
        return False
    # Completion models do not count: LangChain answers for them from its cache without a word.
    return any(isinstance(getattr(part, "runnable", part), BaseChatModel) for part in parts)
