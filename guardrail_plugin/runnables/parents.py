"""Parents for rail runs where LangChain gives none: inside a model's run, and in code without a run of its own."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForChainRun,
    AsyncCallbackManagerForLLMRun,
    BaseCallbackManager,
    CallbackManagerForChainRun,
    CallbackManagerForLLMRun,
)
from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.runnables import RunnableConfig


def under_model(run: CallbackManagerForLLMRun | None) -> CallbackManagerForChainRun:
    """Return a parent for runs inside a model's run."""
    if run is None:
        return CallbackManagerForChainRun.get_noop_manager()
    return CallbackManagerForChainRun(run_id=run.run_id, **_heirloom(run))


def aunder_model(run: AsyncCallbackManagerForLLMRun | None) -> AsyncCallbackManagerForChainRun:
    """Like ``under_model``."""
    if run is None:
        return AsyncCallbackManagerForChainRun.get_noop_manager()
    return AsyncCallbackManagerForChainRun(run_id=run.run_id, **_heirloom(run))


def under_config(config: RunnableConfig) -> CallbackManagerForChainRun:
    """Return the run in whose config a piece of code is called, as a parent."""
    manager = config.get("callbacks")
    if not isinstance(manager, BaseCallbackManager) or manager.parent_run_id is None:
        return CallbackManagerForChainRun.get_noop_manager()
    return CallbackManagerForChainRun(run_id=manager.parent_run_id, **_heirloom(manager))


def aunder_config(config: RunnableConfig) -> AsyncCallbackManagerForChainRun:
    """Like ``under_config``."""
    manager = config.get("callbacks")
    if not isinstance(manager, BaseCallbackManager) or manager.parent_run_id is None:
        return AsyncCallbackManagerForChainRun.get_noop_manager()
    return AsyncCallbackManagerForChainRun(run_id=manager.parent_run_id, **_heirloom(manager))


def _heirloom(manager: BaseRunManager | BaseCallbackManager) -> dict[str, Any]:
    return {
        "handlers": manager.handlers,
        "inheritable_handlers": manager.inheritable_handlers,
        "tags": manager.tags,
        "inheritable_tags": manager.inheritable_tags,
        "metadata": manager.metadata,
        "inheritable_metadata": manager.inheritable_metadata,
    }
