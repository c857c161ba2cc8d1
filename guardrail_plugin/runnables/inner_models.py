"""What a model that stands for another one takes over from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from langchain_core.language_models import LanguageModelInput
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig
from langchain_core.runnables.base import RunnableBindingBase

_OF_TOOLS = frozenset({"tools", "tool_choice", "parallel_tool_calls"})
"""What tools that are bound already have brought with them. It does not fit others."""


def model_in(runnable: object) -> object:
    """Return the model inside bindings."""
    while isinstance(runnable, RunnableBindingBase):
        runnable = runnable.bound
    return runnable


def with_tools(
    inner: Runnable[LanguageModelInput, Any], tools: Sequence[Any], **kwargs: Any
) -> Runnable[LanguageModelInput, Any]:
    """Bind tools to the model inside bindings, which stay around it; what comes with the tools wins.

    LangChain's own bindings pass ``bind_tools`` on to the bare model, and what was bound is lost.

    Raises:
        NotImplementedError: it takes none.
    """
    if not isinstance(inner, RunnableBinding):
        bind = getattr(inner, "bind_tools", None)
        if bind is None:
            raise NotImplementedError(f"{inner.get_name()} takes no tools, or has some bound already")
        made: Runnable[LanguageModelInput, Any] = bind(tools, **kwargs)
        return made
    made = with_tools(inner.bound, tools, **kwargs)
    given, config = dict(inner.kwargs), inner.config
    if "tools" in given:
        given = {key: value for key, value in given.items() if key not in _OF_TOOLS}
    if isinstance(made, RunnableBinding):
        # Not by merge_configs: that takes in the listeners of whoever calls, and they would hear the model inside.
        given, config = {**given, **made.kwargs}, cast("RunnableConfig", {**config, **made.config})
    return type(inner)(
        bound=made,
        kwargs=given,
        config=config,
        config_factories=inner.config_factories,
        custom_input_type=inner.custom_input_type,
        custom_output_type=inner.custom_output_type,
    )


def marks_of(runnable: object) -> dict[str, Any]:
    """Return the tags and the metadata by which those who listen to a model tell it from others."""
    model = model_in(runnable)
    tags = list(getattr(model, "tags", None) or ())
    metadata = dict(getattr(model, "metadata", None) or {})
    for config in reversed([*_configs(runnable)]):
        tags += config.get("tags") or ()
        metadata |= config.get("metadata") or {}
    return {"tags": tags or None, "metadata": metadata or None}


def _configs(runnable: object) -> Iterator[Mapping[str, Any]]:
    while isinstance(runnable, RunnableBindingBase):
        yield runnable.config
        runnable = runnable.bound
