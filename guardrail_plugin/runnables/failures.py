"""What a chain that nobody may overhear raises: errors quote answers, and no rail has judged these.

A parser's error holds the whole answer, a validator's the part that it dislikes, a function's whatever it was written
to hold. So an error leaves as it came only where it cannot quote the model:

- Always: errors of this library, cancellation and the like.
- Before anything was said: what LangChain's models raise themselves, so that refused keys are told, and in chains of
  inert parts (``silence``) whatever is raised, so that mistakes in a prompt are. Errors that are made to quote text
  (parsers', validators') do not count as such.
- After that: no answer came (limits of time or steps, connections, a provider's HTTP status): callers retry on these.
  Notes on them are dropped. LangGraph's control flow passes where it carries no text: an interrupt shows its value to
  whoever runs the outer graph, a command to a parent writes into its state.

In place of all others comes a ``ChainError``. What an error that leaves was raised from is cut off by the same rule.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import Runnable
from typing_extensions import override

from guardrail_plugin.core.errors import ChainError, GuardrailError
from guardrail_plugin.runnables.provider_errors import members, named, no_answer, quotes, strip
from guardrail_plugin.runnables.silence import inert
from guardrail_plugin.runnables.streams import closing

T = TypeVar("T")

_CONTROL = frozenset({"langgraph.GraphBubbleUp"})
_DRAINED = frozenset({"langgraph.GraphDrained"})
_INTERRUPT = ("langgraph", "Interrupt")
_ADVICE = (
    "it is LangGraph's control flow and carries text past the output rail: guard the model or the inner node instead "
    "of the graph, or put guardrail_node or GuardrailMiddleware inside it"
)


class Heard(BaseCallbackHandler):
    """Listens to one detached run only for whether models speak or fail, and decides about what the run raises."""

    run_inline = True  # in async calls: a thread per event would cost more than the note

    def __init__(self, runnable: Runnable[Any, Any]) -> None:
        """Listen for a runnable's call."""
        self._runnable = runnable
        self._spoke = False
        self._failed: set[tuple[int, type[BaseException]]] = set()

    @override
    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        # Not the error itself: its traceback holds what holds this.
        self._failed.add((id(error), type(error)))

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
        try:
            raise told
        finally:
            del told  # its traceback holds this frame: the two would keep each other

    async def acall(self, work: Callable[[], Awaitable[T]]) -> T:
        """Like ``call``. Cancellation: passes."""
        try:
            return await work()
        except BaseException as error:
            told = self.told(error)
        try:
            raise told
        finally:
            del told

    async def achunks(self, chunks: Callable[[], AsyncIterator[T]]) -> AsyncIterator[T]:
        """Pass a stream on; raises as ``call``. Cancellation: closes it, then passes."""
        try:
            async with closing(chunks()) as source:
                async for chunk in source:
                    yield chunk
            return
        except BaseException as error:
            told = self.told(error)
        try:
            raise told
        finally:
            del told

    def told(self, error: BaseException) -> BaseException:
        """Return what the caller and the traces get to see of an error."""
        try:
            return self._told(error)
        except Exception:
            # It could not be looked at: its own methods failed.
            return ChainError(type(error).__name__, place=_place(error))

    def _told(self, error: BaseException) -> BaseException:
        silent = not self._spoke and inert(self._runnable)
        if silent and not any(quotes(link) for link in _chain(error)):
            return error
        failed = not self._spoke and (id(error), type(error)) in self._failed
        error = _first(error)
        if _always(error) or ((failed or no_answer(error)) and not quotes(error)):
            return _cut(error, silent=silent)
        advice = _ADVICE if named(error, _CONTROL) else None
        return ChainError(type(error).__name__, place=_place(error), advice=advice)


def is_control_flow(error: BaseException) -> bool:
    """Tell LangGraph's interrupts and commands from errors."""
    return named(error, _CONTROL)


def words_of(error: BaseException) -> str:
    """Return all that an exception tells whoever shows it, by its text, its ``repr`` or a traceback."""
    said: dict[str, None] = {}
    for link in _chain(error):
        text = str(link)
        # A repr tells more than the text where the class has one of its own, or the text leaves arguments out.
        plain = type(link).__repr__ is BaseException.__repr__ and all(str(part) in text for part in link.args)
        notes = getattr(link, "__notes__", ())
        said.update(dict.fromkeys([text, *([] if plain else [repr(link)]), *map(str, notes)]))
    return "\n".join(text for text in said if text)


def listeners(callbacks: object) -> list[BaseCallbackHandler]:
    """Return those of a config's callbacks that are such listeners: an outer one hears what an inner one hears."""
    handlers = callbacks if isinstance(callbacks, list) else getattr(callbacks, "handlers", [])
    return [handler for handler in handlers if isinstance(handler, Heard)]


def _first(error: BaseException) -> BaseException:
    """Return the error, or of a group that has cancellation or the like in it the first such."""
    while not isinstance(error, Exception):
        stopping = [one for one in members(error) if not isinstance(one, Exception)]
        if not stopping:
            break
        error = stopping[0]
    return error


def _always(error: BaseException) -> bool:
    if members(error):
        return False
    if not isinstance(error, Exception) or isinstance(error, GuardrailError) or named(error, _DRAINED):
        return True
    return named(error, _CONTROL) and _textless(error.args)


def _textless(value: object) -> bool:
    """Tell whether a value is made of numbers, flags and nothing else."""
    if isinstance(value, dict):
        return all(_textless(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple | set | frozenset):
        return all(_textless(part) for part in value)
    kind = type(value)
    if (kind.__module__.partition(".")[0], kind.__name__) == _INTERRUPT:
        return _textless([getattr(value, name, None) for name in ("value", "response_schema")])
    return value is None or isinstance(value, bool | int | float)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that it was raised from, or while handling, and that is in a group."""
    found, waiting = {id(error)}, [error]
    while waiting:
        link = waiting.pop()
        yield link
        for inner in (link.__cause__, link.__context__, *members(link)):
            if inner is not None and id(inner) not in found:
                found.add(id(inner))
                waiting.append(inner)


def _cut(error: BaseException, *, silent: bool) -> BaseException:
    for link in _chain(error):
        for name in ("__cause__", "__context__"):
            inner = getattr(link, name)
            if inner is not None and not _always(inner) and (quotes(inner) or not (silent or no_answer(inner))):
                setattr(link, name, None)
        if not silent:
            strip(link)
    return error


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}"
