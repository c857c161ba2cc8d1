"""One model per rail: the checks of a batch, sorted to their models and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.verdict import Rail
from guardrail_plugin.evals.baselines.guardian import Risk
from guardrail_plugin.evals.bootstrap import Bools

Features: TypeAlias = Callable[[Sequence[Check]], tuple[Any, Bools]]
"""Checks of one rail → what the model reads, and whether each was cut (N,)."""


def risks_per_rail(checks: Sequence[Check], models: Mapping[Rail, Any], features: Features) -> list[Risk]:
    """Return the probability of the harmful class per check, in order.

    Args:
        checks: of any rails.
        models: scikit-learn classifiers with the classes ``False`` and ``True``.
        features: what a model reads of its checks.

    Raises:
        ConfigError: there is no model for a check's rail.
    """
    risks: dict[int, Risk] = {}
    for rail in dict.fromkeys(check.rail for check in checks):
        if rail not in models:
            raise ConfigError(f"the baseline has no training rows for the {rail} rail; add a file with --train")
        places = [i for i, check in enumerate(checks) if check.rail == rail]
        read, cut = features([checks[i] for i in places])
        found = models[rail].predict_proba(read)[:, 1]
        risks |= {i: Risk(float(p), bool(c)) for i, p, c in zip(places, found, cut, strict=True)}
    return [risks[i] for i in range(len(checks))]
