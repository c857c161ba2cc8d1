"""What a policy would order at other thresholds: a slider needs no second look at the text."""

from __future__ import annotations

from guardrail_plugin import Policy, Verdict
from guardrail_plugin.core.policy import RailRule
from guardrail_plugin.core.verdict import Action

_STEPS = 100


def decisions(policy: Policy, verdict: Verdict) -> list[tuple[float, Action]]:
    """Return where the action changes as the rail's threshold goes from 0 to 1: ``(threshold, action from it on)``.

    The policy itself decides at each hundredth, with its other rules as they are: hazards that it allows or judges
    alone, and what it does about truncated texts.
    """
    rule = policy.rails.get(verdict.rail, RailRule())
    found: list[tuple[float, Action]] = []
    for step in range(_STEPS + 1):
        threshold = step / _STEPS
        rails = {**policy.rails, verdict.rail: RailRule(action=rule.action, threshold=threshold)}
        action = policy.model_copy(update={"rails": rails}).action(verdict)
        if not found or found[-1][1] != action:
            found.append((threshold, action))
    return found
