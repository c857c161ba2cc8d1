"""Parents for rail runs where LangChain gives none: inside a model's run, and in code without a run of its own."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from langchain_core.callbacks import (
    AsyncCallbackManagerForChainRun,
    AsyncCallbackManagerForLLMRun,
    BaseCallbackHandler,
    BaseCallbackManager,
    CallbackManager,
    CallbackManagerForChainRun,
    CallbackManagerForLLMRun,
    Callbacks,
)
from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config
from typing_extensions import override


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


class ModelRun(BaseCallbackHandler):
    """One call of a model: its config, and its run as soon as that has begun. Made for one call.

    LangChain keeps a model's config from the model's own methods, and its run, too, where it streams.

    Attributes:
        inside: the config for what the model is made of: not the call's name and id.
        heard: the call's config, with this among its listeners.
    """

    run_inline = True

    def __init__(self, config: RunnableConfig | None) -> None:
        """Take in the config that the model is called with."""
        self.heard = ensure_config(config)
        self.inside = self.heard.copy()
        self.inside.pop("run_id", None)
        self.inside.pop("run_name", None)
        self._outer = _manager(self.heard.get("callbacks"))
        listening = self._outer.copy()
        # Not inherited: rails make runs of their own only where somebody listens, and this does not count.
        listening.add_handler(self, inherit=False)
        self.heard["callbacks"] = listening
        self._run_id: UUID | None = None

    @override
    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._run_id = run_id

    def parent(self) -> CallbackManagerForChainRun:
        """Return the model's run as a parent for others."""
        if self._run_id is None:
            return CallbackManagerForChainRun.get_noop_manager()
        return CallbackManagerForChainRun(run_id=self._run_id, **_heirloom(self._outer))

    def aparent(self) -> AsyncCallbackManagerForChainRun:
        """Like ``parent``."""
        if self._run_id is None:
            return AsyncCallbackManagerForChainRun.get_noop_manager()
        return AsyncCallbackManagerForChainRun(run_id=self._run_id, **_heirloom(self._outer))


def _heirloom(manager: BaseRunManager | BaseCallbackManager) -> dict[str, Any]:
    return {
        "handlers": manager.handlers,
        "inheritable_handlers": manager.inheritable_handlers,
        "tags": manager.tags,
        "inheritable_tags": manager.inheritable_tags,
        "metadata": manager.metadata,
        "inheritable_metadata": manager.inheritable_metadata,
    }


def _manager(callbacks: Callbacks) -> BaseCallbackManager:
    if isinstance(callbacks, BaseCallbackManager):
        return callbacks
    handlers = list(callbacks or ())
    return CallbackManager(handlers, handlers)
