"""LangChain Runnables behind rails."""

from guardrail_plugin.runnables.guard import guard
from guardrail_plugin.runnables.guarded import GuardedRunnable

__all__ = ["GuardedRunnable", "guard"]
