"""Guardians to compare with: TF-IDF, a small sentence encoder, a language model that was never trained to judge."""

from guardrail_plugin.evals.baselines.guardian import BaselineGuardian
from guardrail_plugin.evals.baselines.opening import BASELINES, open_baseline
from guardrail_plugin.evals.baselines.training import TrainingSets, training_sets

__all__ = ["BASELINES", "BaselineGuardian", "TrainingSets", "open_baseline", "training_sets"]
