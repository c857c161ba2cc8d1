"""What happens to one request, as generators and state machines without I/O, and the drivers that run them."""

from guardrail_plugin.flow.drivers import run_async, run_batch_async, run_batch_sync, run_sync
from guardrail_plugin.flow.effects import (
    Answer,
    Classify,
    ClassifyMany,
    Effect,
    Escalate,
    Judged,
    OnEscalate,
    Respond,
    Steps,
    Told,
)
from guardrail_plugin.flow.holdback import HoldBack, Part, Release
from guardrail_plugin.flow.outcomes import Allowed, Blocked, Edited, Failed, Outcome, describe
from guardrail_plugin.flow.rails import Rules, Uncheckable, input_rail, output_rail
from guardrail_plugin.flow.streaming import AnswerReader, Ending, ahold, hold
from guardrail_plugin.flow.windows import Window, WindowSetting

__all__ = [
    "Allowed",
    "Answer",
    "AnswerReader",
    "Blocked",
    "Classify",
    "ClassifyMany",
    "Edited",
    "Effect",
    "Ending",
    "Escalate",
    "Failed",
    "HoldBack",
    "Judged",
    "OnEscalate",
    "Outcome",
    "Part",
    "Release",
    "Respond",
    "Rules",
    "Steps",
    "Told",
    "Uncheckable",
    "Window",
    "WindowSetting",
    "ahold",
    "describe",
    "hold",
    "input_rail",
    "output_rail",
    "run_async",
    "run_batch_async",
    "run_batch_sync",
    "run_sync",
]
