"""The protocol: any of k, the second judge, perplexity; and the figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from guardrail_plugin.core.errors import ConfigError, GuardianError, SoftPromptMismatch  # noqa: E402
from guardrail_plugin.dro import (  # noqa: E402
    AnchorConfig,
    ChatSplice,
    EvaluationConfig,
    Journal,
    SoftPrompt,
    evaluate,
    fit_anchor,
    guardian_judge,
    plot_anchor,
    plot_curves,
    save_figure,
)
from guardrail_plugin.dro.evaluate import _Counting  # noqa: E402
from guardrail_plugin.dro.soft_prompt import SoftPromptInfo, text_prompt  # noqa: E402
from guardrail_plugin.testing.guardians import ScriptedGuardian, verdict  # noqa: E402

LONG = "Take this.\nThen that.\nDone."
SMALL = EvaluationConfig(drawn=3, kept=2, harmful_tokens=6, harmless_tokens=5)


def _refuses(text: str) -> bool:
    return text.startswith("No")


def _count(drawn: Sequence[Sequence[str]], *, harmful: bool, judge: Any = None, kept: int = 20) -> Any:
    counting = _Counting(EvaluationConfig(kept=kept), _refuses, judge)
    return counting.count("set", [f"q{i}" for i in range(len(drawn))], drawn, harmful=harmful)


@pytest.mark.parametrize(
    ("drawn", "hits"),
    [
        ([["No."], ["No, never."]], 0),
        ([["No.", LONG], ["No."]], 1),  # any of k
        ([["One line."], ["One.\n\n\nTwo."]], 0),  # too short to comply; blank lines do not count
        ([[LONG], [LONG, LONG]], 2),
        ([], 0),
    ],
)
def test_harmful_queries_complied_with(drawn: list[list[str]], hits: int) -> None:
    result = _count(drawn, harmful=True)
    assert (result.hits, result.queries) == (hits, len(drawn))


def test_harmless_queries_refused() -> None:
    result = _count([["Yes.", "No."], ["Yes.", "Sure."]], harmful=False)
    assert (result.hits, result.sample_hits, result.refused_samples, result.samples) == (1, 1, 1, 4)
    assert result.rate == 0.5
    assert math.isnan(_count([], harmful=False).rate)


def test_only_the_longest_responses_are_judged() -> None:
    assert _count([["No.", "No, and no again, for ever."], [LONG, "No."]], harmful=True, kept=1).sample_hits == 1


def test_the_judge_has_the_last_word_and_sees_long_answers_only() -> None:
    asked: list[tuple[str, str]] = []

    def judge(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        asked.extend(pairs)
        return [query == "q1" for query, _ in pairs]

    assert _count([[LONG], [LONG, "No."], ["short"]], harmful=True, judge=judge).hits == 1
    assert asked == [("q0", LONG), ("q1", LONG)]


def test_a_guardian_judges_on_the_output_rail() -> None:
    guardian = ScriptedGuardian({"bomb": verdict(risk=0.9, hazard="S9")})
    assert guardian_judge(guardian)([("q", "a bomb"), ("q", "a cake")]) == [True, False]
    assert [(c.rail, c.query) for c in guardian.checks] == [("output", "q")] * 2


def test_a_guardian_without_a_verdict_ends_the_measurement() -> None:
    with pytest.raises(GuardianError):
        guardian_judge(ScriptedGuardian(lambda _: GuardianError("gone")))([("q", "a")])


def _soft(llama: tuple[Any, Any], text: str) -> SoftPrompt:
    vectors = text_prompt(llama[0], ChatSplice(llama[1]).content_ids(text))
    return SoftPrompt(vectors, SoftPromptInfo(width=vectors.shape[1], method="text"))


def test_a_texts_own_embeddings_measure_like_the_text(llama: tuple[Any, Any]) -> None:
    references = [("Hi", "Good day to you."), ("What is a kite?", "A toy that flies."), ("x", "y")]
    settings: dict[str, Any] = {"harmless": {"set": ["Hi", "What is a kite?"]}, "references": references}
    by_text = evaluate(*llama, prompt="Be kind.", config=SMALL, quiet=True, **settings)
    by_soft = evaluate(*llama, prompt=_soft(llama, "Be kind."), config=SMALL, quiet=True, **settings)
    without = evaluate(*llama, prompt=None, config=SMALL, quiet=True, **settings)
    assert by_soft.perplexity == pytest.approx(by_text.perplexity, rel=1e-4)
    assert by_soft.perplexity != pytest.approx(without.perplexity, rel=1e-4)
    assert by_soft.reference_tokens == sum(len(answer) for _, answer in references)
    assert by_soft.as_dict()["judged"] is False


def test_perplexity_is_the_exponential_of_the_mean_loss(llama: tuple[Any, Any]) -> None:
    model, tokenizer = llama
    splice = ChatSplice(tokenizer)
    row, answer = splice.row([{"role": "user", "content": "Hi"}]).ids, splice.content_ids("Good day.")
    labels = torch.tensor([[-100] * len(row) + answer])
    with torch.no_grad():
        loss = model(input_ids=torch.tensor([[*row, *answer]]), labels=labels).loss
    got = evaluate(*llama, prompt=None, references=[("Hi", "Good day.")], quiet=True)
    assert got.perplexity == pytest.approx(float(loss.exp()), rel=1e-4)
    assert got.sets == ()


def test_a_stopped_evaluation_goes_on(llama: tuple[Any, Any], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"prompt": None, "config": SMALL, "quiet": True}
    sets = {"set": ["Hi", "What is a kite?", "x"]}
    whole = evaluate(*llama, harmful=sets, **settings)
    file = tmp_path / "drawn.jsonl"
    evaluate(*llama, harmful={"set": ["Hi"]}, journal=Journal(file), **settings)
    assert len(file.read_text().splitlines()) == 1
    assert evaluate(*llama, harmful=sets, journal=Journal(file), **settings) == whole
    assert len(file.read_text().splitlines()) == 3


def test_another_models_soft_prompt_is_refused(llama: tuple[Any, Any]) -> None:
    with pytest.raises(SoftPromptMismatch, match="width"):
        evaluate(*llama, prompt=SoftPrompt(torch.zeros(2, 8), SoftPromptInfo(width=8)), quiet=True)


@pytest.fixture
def anchor(llama: tuple[Any, Any], queries: Any) -> Any:
    """An anchor with two conditions."""
    compliance = torch.tensor([0.2] * 12 + [0.9] * 12).repeat(2, 1)
    config = AnchorConfig(folds=3, learning_rate=0.02, max_epochs=200, min_harm_accuracy=0.0)
    return fit_anchor(*llama, *queries, safety_prompts=["short"], config=config, compliance=compliance, quiet=True)


def test_the_figure_has_a_panel_per_prompt_and_is_the_same_twice(anchor: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    written = []
    for name in ("a", "b"):
        figure = plot_anchor(anchor, {"soft": anchor.coordinates[0] + 1})
        assert [ax.get_title() for ax in figure.axes] == ["no prompt", "short", "soft"]
        written.append(save_figure(figure, tmp_path / f"{name}.png"))
    assert [path.name for path in written[0]] == ["a.png", "a.svg"]
    for first, second in zip(*written, strict=True):
        assert first.read_bytes() == second.read_bytes()
    assert "harmless query" in written[0][1].read_text() or written[0][1].stat().st_size > 10_000


def test_curves_have_an_axis_per_term() -> None:
    pytest.importorskip("matplotlib")
    figure = plot_curves([{"loss": 1.0, "refusal": 1.0}, {"loss": 0.5, "refusal": 0.4, "validation": 0.6}])
    assert [ax.get_title() for ax in figure.axes] == ["L", "L_r", "validation"]
    with pytest.raises(ConfigError, match="no training history"):
        plot_curves([])
