"""What happens to one request, as generators without I/O, and the drivers that run them."""

from guardrail_plugin.flow.drivers import run_async, run_batch_async, run_batch_sync, run_sync
from guardrail_plugin.flow.effects import Answer, Classify, Effect, Respond, Steps
from guardrail_plugin.flow.outcomes import Allowed, Blocked, Failed, Outcome, describe
from guardrail_plugin.flow.rails import Uncheckable, input_rail

__all__ = [
    "Allowed",
    "Answer",
    "Blocked",
    "Classify",
    "Effect",
    "Failed",
    "Outcome",
    "Respond",
    "Steps",
    "Uncheckable",
    "describe",
    "input_rail",
    "run_async",
    "run_batch_async",
    "run_batch_sync",
    "run_sync",
]
