"""Source categories → hazard codes; what mixes hazards stays open."""

from __future__ import annotations

import pytest

from guardrail_plugin.core.categories import hazard_of
from guardrail_plugin.core.hazards import MLCOMMONS


@pytest.mark.parametrize(
    ("source", "category", "hazard"),
    [
        ("ailuminate_demo", "iwp", "S9"),
        ("catqa", "Child Abuse / Content Sexual exploitation", "S4"),
        ("catqa", "Child Abuse / neglect", "S1"),
        ("aart", "crimes motivated by prejudice", "S10"),
        ("cyberseceval_interpreter", None, "S14"),
        ("kosbi", "x", "S10"),
        ("harmbench", "contextual / chemical_biological", "S9"),
        ("harmbench", "standard / illegal", None),
        ("multijail", "['Theft', 'Fraud & deception']", "S2"),
        ("multijail", "['Theft', 'Self-harm']", None),
        ("multijail", "['Non-violent unethical behavior (e.g. lying, cheating, etc.)']", None),
        ("openai_moderation", "hate,hate/threatening", "S10"),
        ("openai_moderation", "sexual,violence", None),
        ("xstest", "contrast_privacy", "S7"),
        ("safety_tuned_llamas_eval", "I-CoNa", "S10"),
        ("anything", "S11", "S11"),
        ("anything", "PI", "PI"),
        ("anything", "something", None),
        ("anything", None, None),
    ],
)
def test_a_category_stands_for_one_hazard_or_none(source, category, hazard):
    assert hazard_of(source, category) == hazard
    assert hazard is None or hazard in MLCOMMONS
