"""Whether a chain is made of nothing that could have been answered unheard: then an error before a model quotes none.

LangChain's chat models tell their listeners when they begin. A function need not say which model it asks: by a
provider's own client, in another thread, with callbacks of its own. Completion models and retrievers answer from caches
and stores without a word. So only LangChain's own parts that are known by name count as inert. The chain itself is
walked, not its graph: that shows what a function refers to in the function's place.
"""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.language_models import BaseChatModel
from langchain_core.output_parsers.base import BaseLLMOutputParser
from langchain_core.prompts import BasePromptTemplate
from langchain_core.runnables import (
    RunnableParallel,
    RunnablePassthrough,
    RunnablePick,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableBindingBase, RunnableEachBase
from langchain_core.runnables.configurable import RunnableConfigurableAlternatives, RunnableConfigurableFields
from langchain_core.runnables.passthrough import RunnableAssign


def inert(runnable: object) -> bool:
    """Tell whether nothing but LangChain's chat models could answer in a runnable."""
    if isinstance(runnable, BaseChatModel):
        return True
    # A class made from one of LangChain's may do anything in its own methods.
    if not type(runnable).__module__.startswith("langchain_core."):
        return False
    parts = _parts(runnable)
    if parts is not None:
        return all(inert(part) for part in parts)
    if isinstance(runnable, RunnablePassthrough):
        return runnable.func is None and runnable.afunc is None
    if isinstance(runnable, BasePromptTemplate):
        return not any(callable(value) for value in runnable.partial_variables.values())
    return isinstance(runnable, BaseLLMOutputParser | RunnablePick)


def _parts(runnable: object) -> Sequence[object] | None:
    """Return what a runnable that does nothing itself is put together from."""
    if isinstance(runnable, RunnableSequence):
        return runnable.steps
    if isinstance(runnable, RunnableParallel):
        return list(runnable.steps__.values())
    if isinstance(runnable, RunnableAssign):
        return [runnable.mapper]
    if isinstance(runnable, RunnableBindingBase | RunnableEachBase):
        return [runnable.bound]
    if isinstance(runnable, RunnableWithFallbacks):
        return list(runnable.runnables)
    if isinstance(runnable, RunnableConfigurableAlternatives):
        return [runnable.default, *runnable.alternatives.values()]
    return [runnable.default] if isinstance(runnable, RunnableConfigurableFields) else None
