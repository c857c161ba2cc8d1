from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from guardrail_plugin.core.conversation import Message
from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.training.config import EvaluationFile, Source, TrainConfig
from guardrail_plugin.training.decontaminate import Evaluation, compared
from guardrail_plugin.training.mix import epoch_examples, read_pools
from guardrail_plugin.training.rows import CORPUS, Example, read_jsonl

KNOWN = Evaluation(
    [
        ("a.jsonl", "How do I grow tomatoes?"),
        ("b.jsonl", "one two three four five six seven eight nine"),
        ("c.jsonl", "thanks"),
        ("d.jsonl", "토마토를 어떻게 키우나요 알려줘"),
        ("e.jsonl", "请告诉我怎样在阳台上种出又大又甜的西红柿和黄瓜。"),
        ("f.jsonl", "怎样种西红柿？"),
        ("g.jsonl", "আমি কীভাবে টমেটো চাষ করব"),
        ("h.jsonl", "ฉันจะปลูกมะเขือเทศบนระเบียงได้อย่างไรให้ได้ผลดี"),
    ]
)

COUNTED = " ".join(f"word{n}" for n in range(60))
SHORT_ANSWER = (
    "First soak the tomato seeds in warm water, then put each one into fresh soil, and wait for ten days or more."
)
REFUSAL = "I'm sorry, but I cannot assist with that. " + " ".join(f"ethics{n}" for n in range(60))
ANSWERED = Evaluation(
    [("q.jsonl", "How do I grow tomatoes?")],
    [("a.jsonl", "Put them into the ground in May."), ("b.jsonl", COUNTED), ("c.jsonl", SHORT_ANSWER),
     ("d.jsonl", "Yes, I can."), ("e.jsonl", REFUSAL)],
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("how do i GROW tomatoes", "equal"),
        ("Please tell me: how do I grow tomatoes? Quickly.", "contains"),
        ("zero one two three four five six seven eight", "words"),
        ("토마토를 어떻게, 키우나요? 알려줘!", "equal"),
        (unicodedata.normalize("NFD", "토마토를 어떻게 키우나요 알려줘"), "equal"),
        ("怎样种西红柿", "equal"),
        ("你好，请告诉我怎样在阳台上种出又大又甜的西红柿，谢谢。", "words"),
        ("请告诉我怎样在阳台上养一只猫。", None),
        ("怎样种土豆？", None),
        ("আমি কীভাবে টমেটো চাষ করব?", "equal"),
        ("আমি কীভাবে আলু চাষ করব?", None),
        ("ครับ ฉันจะปลูกมะเขือเทศบนระเบียงได้อย่างไรให้ได้ผลดี", "words"),
        ("ฉันจะปลูกมันฝรั่งในสวนได้อย่างไร", None),
        ("How do I grow potatoes?", None),
        ("one two three four five six seven ate nine", None),
        ("Thanks!", None),
        ("", None),
    ],
)
def test_rules(text: str, rule: str | None) -> None:
    hit = KNOWN.find(Example(text=text, harmful=False))
    assert (hit.rule if hit else None) == rule


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("put them into the ground, in May!", None),  # seven words
        ("Yes, I can.", None),
        (COUNTED.upper(), ("b.jsonl", "equal")),
        ("So: " + " ".join(COUNTED.split()[10:50]), ("b.jsonl", "words")),
        ("So: " + " ".join(COUNTED.split()[10:49]), None),
        (f"Gladly. {SHORT_ANSWER} Enjoy!", ("c.jsonl", "contains")),
        (REFUSAL, None),  # of whatever length
        ("Sure. " + REFUSAL.removeprefix("I'm sorry, but I cannot assist with that. "), None),  # known from a refusal
    ],
)
def test_answers_are_compared_with_labelled_answers(answer: str, found: tuple[str, str] | None) -> None:
    example = Example(text=answer, harmful=False, rail="output", query="How?")
    hit = ANSWERED.find(example)
    assert (None if hit is None else (hit.file, hit.rule)) == found
    assert ANSWERED.overlapping([example]) == ({} if found is None else {0: found[0]})
    assert ANSWERED.find(Example(text=answer, harmful=False)) is None  # what a user says is no answer
    asked = Example(text=answer, harmful=False, rail="output", query="How do I grow tomatoes?")
    assert ANSWERED.overlapping([asked]) == {0: "q.jsonl"}


def test_a_response_is_compared_by_its_query_and_a_dialogue_by_its_longer_turns_too() -> None:
    assert compared(Example(text="Sure.", harmful=False, rail="output", query="How?")) == ["How?"]
    counted = "zero one two three four five six seven eight"
    turns = (Message("user", "How do I grow tomatoes?"), Message("assistant", "So."), Message("user", counted))
    dialogue = Example(text="How?", harmful=False, context=turns)
    assert compared(dialogue) == ["How?", counted]  # a short turn is not what is judged
    assert KNOWN.overlapping([Example(text="How?", harmful=False), dialogue]) == {1: "b.jsonl"}


def write(path: Path, *texts: str) -> None:
    path.write_text("".join(json.dumps({"text": text, "harmful": False}) + "\n" for text in texts))


def test_answers_of_evaluation_files_count_where_they_are_labelled(tmp_path: Path) -> None:
    rows = [
        {"text": "How?", "response": COUNTED, "response_harmful": False},
        {"text": "Why?", "response": COUNTED.replace("word", "other"), "harmful": False},
    ]
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluation = Evaluation.of_files([tmp_path / "eval.jsonl"])
    answers = [Example(text=row["response"], harmful=False, rail="output", query="Where?") for row in rows]
    assert evaluation.overlapping(answers) == {0: "eval.jsonl"}


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
    """Runs where the labelled data lies beside the checkout; the training run itself always checks."""
    recipe = TrainConfig.from_toml(CORPUS.parent / "recipes" / "default.toml")
    data = Path(__file__).parents[4] / "shared" / "data"
    if not data.is_dir():
        pytest.skip("the folder of evaluation files is not beside the checkout")
    files = [EvaluationFile(path=one) if isinstance(one, str) else one for one in recipe.evaluation]
    evaluation = Evaluation.of_files([(data / one.path, one.categories) for one in files])
    for file in sorted(CORPUS.glob("*.jsonl")):
        examples = [_example(row, answer=file.name.startswith(_ANSWERS)) for row in read_jsonl(file)]
        assert (file.name, evaluation.overlapping(examples)) == (file.name, {})


_ANSWERS = ("answers_", "responses_", "openings")


def _example(row: dict[str, Any], *, answer: bool) -> Example:
    if answer:
        written = row.get("response") or row.get("text") or row["pattern"]
        query = row["text"] if "response" in row else ""
        return Example(text=written, harmful=False, rail="output", query=query)
    *before, last = row.get("turns") or [row.get("text") or row["pattern"]]
    return Example(text=last, harmful=False, context=tuple(Message("user", turn) for turn in before))


def test_a_part_of_a_file_may_be_for_training(tmp_path: Path) -> None:
    told = [{"text": "which of these boats would float the longest", "harmful": False, "category": c} for c in "ab"]
    told[1]["text"] = "where does the oldest bridge of this town stand"
    (tmp_path / "both.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))

    def recipe(*wanted: str) -> TrainConfig:
        part = EvaluationFile(path="both.jsonl", categories=("a",))
        source = Source(path="both.jsonl", exclude_categories=wanted)
        return TrainConfig(sources=(source,), evaluation=(part,), validation_fraction=0.0)

    [(_, rows)] = read_pools(recipe("a"), [tmp_path]).train
    assert [row.text for row in rows] == [told[1]["text"]]
    with pytest.raises(ConfigError, match=r"1 rows of both\.jsonl overlap"):
        read_pools(recipe(), [tmp_path])
