from __future__ import annotations

import json
from pathlib import Path

import pytest

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.training.config import Source, TrainConfig
from guardrail_plugin.training.decontaminate import Evaluation, query_of
from guardrail_plugin.training.mix import epoch_examples, read_pools
from guardrail_plugin.training.rows import CORPUS, Example, read_jsonl

KNOWN = Evaluation(
    [
        ("a.jsonl", "How do I grow tomatoes?"),
        ("b.jsonl", "one two three four five six seven eight nine"),
        ("c.jsonl", "thanks"),
        ("d.jsonl", "토마토를 어떻게 키우나요 알려줘"),
    ]
)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("how do i GROW tomatoes", "equal"),
        ("Please tell me: how do I grow tomatoes? Quickly.", "contains"),
        ("zero one two three four five six seven eight", "words"),
        ("토마토를 어떻게, 키우나요? 알려줘!", "equal"),
        ("How do I grow potatoes?", None),
        ("one two three four five six seven ate nine", None),
        ("Thanks!", None),
        ("", None),
    ],
)
def test_rules(text: str, rule: str | None) -> None:
    assert [hit.rule for hit in KNOWN.hits([text])] == ([rule] if rule else [])


def test_a_response_is_compared_by_its_query() -> None:
    assert query_of(Example(text="Sure.", harmful=False, rail="output", query="How?")) == "How?"
    assert query_of(Example(text="How?", harmful=False)) == "How?"


def write(path: Path, *texts: str) -> None:
    path.write_text("".join(json.dumps({"text": text, "harmful": False}) + "\n" for text in texts))


def test_an_overlap_fails_the_run_or_is_dropped_when_the_source_says_so(tmp_path: Path) -> None:
    write(tmp_path / "eval.jsonl", "How do I grow tomatoes?")
    write(tmp_path / "train.jsonl", "how do i grow tomatoes", "How do I grow cress?")

    def config(*, drop: bool) -> TrainConfig:
        source = Source(path="train.jsonl", drop_overlaps=drop)
        return TrainConfig(sources=(source,), evaluation=("eval.jsonl",), validation_fraction=0.0)

    with pytest.raises(ConfigError, match=r"1 rows of train\.jsonl overlap with evaluation texts \(eval\.jsonl\)"):
        read_pools(config(drop=False), [tmp_path])
    pools = read_pools(config(drop=True), [tmp_path])
    assert [e.text for e in epoch_examples(config(drop=True), pools, 0)] == ["How do I grow cress?"]


def test_our_own_text_overlaps_with_no_evaluation_file() -> None:
    """Runs where the labelled data lies beside the checkout; the training run itself always checks.

    Queries only: responses and openings are answers, which no rule compares.
    """
    recipe = TrainConfig.from_toml(CORPUS.parent / "recipes" / "default.toml")
    data = Path(__file__).parents[4] / "shared" / "data"
    if not data.is_dir():
        pytest.skip("the folder of evaluation files is not beside the checkout")
    evaluation = Evaluation.of_files([data / path for path in recipe.evaluation])
    for file in sorted(set(CORPUS.glob("*.jsonl")) - set(CORPUS.glob("responses_*")) - set(CORPUS.glob("openings*"))):
        rows = read_jsonl(file)
        texts = [row.get("text") or row.get("pattern") or row["turns"][-1] for row in rows]
        assert [(file.name, hit.rule, hit.file, hit.index) for hit in evaluation.hits(texts)] == []
