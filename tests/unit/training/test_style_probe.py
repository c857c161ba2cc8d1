from __future__ import annotations

import random

import numpy as np
import pytest

pytest.importorskip("sklearn")

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.training import style_probe
from guardrail_plugin.training.rows import Example
from guardrail_plugin.training.style_probe import balance_style, probe_style

NOUNS = ("lamp", "river", "engine", "letter", "cupboard", "violin", "harbour", "ticket", "orchard", "signal")


def rows(*, question_if_harmful: float, count: int = 600) -> list[Example]:
    """Texts of one vocabulary, as questions with the given probability when harmful, else mirrored."""
    rng = random.Random(0)
    made = []
    for i in range(count):
        harmful = i % 2 == 0
        question = rng.random() < (question_if_harmful if harmful else 1 - question_if_harmful)
        noun, other = rng.choice(NOUNS), rng.choice(NOUNS)
        text = f"How do I get a {noun} for the {other} {i}?" if question else f"Make a {noun} with that {other} {i}."
        made.append(Example(text=text, harmful=harmful))
    return made


def test_style_that_tells_is_found() -> None:
    found = probe_style(rows(question_if_harmful=0.95))
    assert found.auroc > 0.9
    assert any("how" in feature or "?" in feature for feature in found.harmful_style)


def test_content_alone_is_not_seen() -> None:
    assert probe_style(rows(question_if_harmful=0.5)).auroc == pytest.approx(0.5, abs=0.08)


def test_a_balanced_draw_leaves_little_to_see() -> None:
    examples = rows(question_if_harmful=0.8)
    drawn = balance_style(examples, random.Random(0))
    assert probe_style(examples).auroc > 0.75
    assert probe_style(drawn).auroc < 0.6
    assert {e.harmful for e in drawn} == {True, False}
    assert drawn == balance_style(examples, random.Random(0))


def test_too_few_rows_of_a_label_are_left_alone() -> None:
    examples = [Example(text=f"text {i}", harmful=False) for i in range(20)]
    assert balance_style(examples, random.Random(0)) == examples


@pytest.mark.parametrize("harmful", [0, 3, 20])
def test_too_few_rows_of_a_label_cannot_be_probed(harmful: int) -> None:
    examples = [Example(text=f"text {i}", harmful=i < harmful) for i in range(20)]
    with pytest.raises(ConfigError, match="too few rows per label"):
        probe_style(examples)
    with pytest.raises(ConfigError, match="too few rows per label"):
        probe_style([])


def test_a_label_that_stands_in_one_fold_alone_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style_probe, "_folds", lambda count, *, seed: np.arange(count) * 5 // count)
    examples = [Example(text=f"text {i}", harmful=i < 8) for i in range(40)]
    rng = random.Random(0)
    assert balance_style(examples, rng) == examples
    assert rng.random() == random.Random(0).random()  # nothing was drawn
