"""LangChain Runnables, tools and documents behind rails."""

from guardrail_plugin.flow.tool_rails import ToolPolicy
from guardrail_plugin.runnables.documents import GuardedDocuments, guard_documents
from guardrail_plugin.runnables.guard import guard
from guardrail_plugin.runnables.guard_tool import guard_tool
from guardrail_plugin.runnables.guarded import GuardedRunnable
from guardrail_plugin.runnables.tools import GuardedTool, ToolBlockedError

__all__ = [
    "GuardedDocuments",
    "GuardedRunnable",
    "GuardedTool",
    "ToolBlockedError",
    "ToolPolicy",
    "guard",
    "guard_documents",
    "guard_tool",
]
