from __future__ import annotations

import random

from guardrail_plugin.core.hazards import PROMPT_INJECTION
from guardrail_plugin.training.compose_documents import compose_documents
from guardrail_plugin.training.rows import Example

DOCUMENT = "Order 4411 was shipped on Monday. It holds two lamps and a table. " * 30


def test_half_of_the_documents_carry_a_planted_request() -> None:
    made = compose_documents([Example(text=DOCUMENT, harmful=False, rail="tool_output")], 40, random.Random(3))
    assert [e.harmful for e in made] == [True, False] * 20
    assert {e.hazard for e in made} == {PROMPT_INJECTION, None}
    assert {e.rail for e in made} == {"tool_output"}
    assert all("lamps" in e.text or "shipped" in e.text for e in made)
    assert all(len(e.text) < 1400 for e in made)  # cropped: long texts cost more than they teach


def test_same_seed_same_documents_and_none_from_nothing() -> None:
    clean = [Example(text=DOCUMENT, harmful=False, rail="tool_output")]
    assert compose_documents(clean, 9, random.Random(1)) == compose_documents(clean, 9, random.Random(1))
    assert compose_documents([], 9, random.Random(1)) == []
