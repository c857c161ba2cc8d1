"""Measure guardians: metrics with intervals, reports, baselines, comparison of runs, thresholds for one's own traffic.

Names are resolved when they are first used; importing this package loads neither scikit-learn nor torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guardrail_plugin.evals.calibrate import calibrate
    from guardrail_plugin.evals.compare import compare_runs
    from guardrail_plugin.evals.dataset import EvalFile
    from guardrail_plugin.evals.refusal import is_refusal
    from guardrail_plugin.evals.run import evaluate
    from guardrail_plugin.evals.suite import load_suite

_HOME_OF = {
    "EvalFile": "guardrail_plugin.evals.dataset",
    "calibrate": "guardrail_plugin.evals.calibrate",
    "compare_runs": "guardrail_plugin.evals.compare",
    "evaluate": "guardrail_plugin.evals.run",
    "is_refusal": "guardrail_plugin.evals.refusal",
    "load_suite": "guardrail_plugin.evals.suite",
}

__all__ = ["EvalFile", "calibrate", "compare_runs", "evaluate", "is_refusal", "load_suite"]


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
