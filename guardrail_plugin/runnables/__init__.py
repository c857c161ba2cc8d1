"""LangChain Runnables, models, tools and documents behind rails.

``InputStage``, ``OutputStage`` and ``ToolStage`` are the rails as a wrapper uses them, for integrations that put them
where no Runnable can be wrapped; ``under_config`` and ``aunder_config`` give them a place in traces.
"""

from guardrail_plugin.flow.tool_rails import ToolPolicy
from guardrail_plugin.runnables.answers import Asked, calls_but_tools
from guardrail_plugin.runnables.block_kinds import is_name
from guardrail_plugin.runnables.construction import check_guardian, check_word, checked_policy
from guardrail_plugin.runnables.documents import GuardedDocuments, guard_documents
from guardrail_plugin.runnables.guard import guard
from guardrail_plugin.runnables.guard_model import guard_model
from guardrail_plugin.runnables.guard_tool import guard_tool
from guardrail_plugin.runnables.guarded import GuardedRunnable
from guardrail_plugin.runnables.guarded_model import Ended, GuardedChatModel
from guardrail_plugin.runnables.inner_models import model_in
from guardrail_plugin.runnables.output_stage import OutputStage
from guardrail_plugin.runnables.parents import aunder_config, under_config
from guardrail_plugin.runnables.stage import InputStage
from guardrail_plugin.runnables.tool_outputs import messages_of, read_output, replaced, texts_of
from guardrail_plugin.runnables.tool_stage import ToolStage
from guardrail_plugin.runnables.tools import GuardedTool, Handle, ToolBlockedError
from guardrail_plugin.runnables.views import latest_turn, user_turns

__all__ = [
    "Asked",
    "Ended",
    "GuardedChatModel",
    "GuardedDocuments",
    "GuardedRunnable",
    "GuardedTool",
    "Handle",
    "InputStage",
    "OutputStage",
    "ToolBlockedError",
    "ToolPolicy",
    "ToolStage",
    "aunder_config",
    "calls_but_tools",
    "check_guardian",
    "check_word",
    "checked_policy",
    "guard",
    "guard_documents",
    "guard_model",
    "guard_tool",
    "is_name",
    "latest_turn",
    "messages_of",
    "model_in",
    "read_output",
    "replaced",
    "texts_of",
    "under_config",
    "user_turns",
]
