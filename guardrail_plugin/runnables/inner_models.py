"""What a model that stands for another one takes over from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from langchain_core.runnables.base import RunnableBindingBase


def model_in(runnable: object) -> object:
    """Return the model inside bindings."""
    while isinstance(runnable, RunnableBindingBase):
        runnable = runnable.bound
    return runnable


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
