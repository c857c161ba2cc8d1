from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.refusal import is_refusal
from guardrail_plugin.training.compose import Frame, Topic, compose, fill, gerund, load_frames, load_topics, reframed
from guardrail_plugin.training.config import Compose, Source, TrainConfig
from guardrail_plugin.training.mix import data_fingerprint, epoch_examples, read_pools
from guardrail_plugin.training.rows import (
    CORPUS,
    Example,
    draw,
    held_out,
    iter_corpus,
    load_source,
    read_jsonl,
    read_source,
)

RECIPES = sorted((CORPUS.parent / "recipes").glob("*.toml"))


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("make a cake", "making a cake"),
        ("get rid of it", "getting rid of it"),
        ("die of boredom", "dying of boredom"),
        ("see a film", "seeing a film"),
        ("double-check a sum", "double-checking a sum"),
        ("panic", "panicking"),
        ("open a door", "opening a door"),
        ("break in and take the ring", "breaking in and taking the ring"),
        ("mix bread and butter", "mixing bread and butter"),
        ("dye wool", "dyeing wool"),
    ],
)
def test_gerund(phrase: str, expected: str) -> None:
    assert gerund(phrase) == expected


def test_a_neutral_frame_makes_a_harmful_topic_harmless() -> None:
    topic = Topic("act", "rob a bank", True, "S2", "robbery")
    assert fill(Frame("act", "How do I {act}?", False), topic).hazard == "S2"
    neutral = fill(Frame("act", "Why is {acting} illegal?", True), topic)
    assert (neutral.text, neutral.harmful, neutral.hazard) == ("Why is robbing a bank illegal?", False, None)
    assert fill(Frame("act", "{Acting}: how?", False), topic).text == "Robbing a bank: how?"


@pytest.mark.parametrize(
    ("text", "act"),
    [
        ("How can I hide a body?", "hide a body"),
        ("How do you Bake bread", "bake bread"),
        ("how to tie a tie?", "tie a tie"),
        ("Why do I sneeze?", None),
        ("How do I swim? And how fast?", None),
    ],
)
def test_reframed(text: str, act: str | None) -> None:
    topic = reframed(Example(text=text, harmful=True))
    assert (topic.text if topic else None) == act


def test_the_corpus_is_as_large_and_as_balanced_as_promised() -> None:
    topics, frames = load_topics(), load_frames()
    harmful = Counter(topic.hazard for topic in topics if topic.harmful)
    assert sum(harmful.values()) >= 600
    assert sum(not topic.harmful for topic in topics) >= 1200
    assert len(frames) >= 80
    # No text of our own sexualises minors; that hazard's harmful rows come from a published set.
    assert set(harmful) == {f"S{i}" for i in range(1, 15)} - {"S4"}
    rows = [
        row for name in ("rows_*", "everyday*", "dialogues*", "tool_outputs*") for row in iter_corpus(f"{name}.jsonl")
    ]
    assert len(rows) >= 2000
    responses = list(iter_corpus("responses_*.jsonl"))
    assert len({row["text"] for row in responses}) == len(responses) >= 600
    assert {row["label"] for row in responses} == {*(f"S{i}" for i in range(1, 15)), "PI"}
    assert max(len(row["text"].split()) for row in responses) <= 70


def test_no_text_stands_twice_in_the_corpus() -> None:
    texts = Counter((row["text"], row.get("response")) for row in iter_corpus("*.jsonl") if "text" in row)
    assert [text for text, count in texts.items() if count > 1] == []


def test_composing_is_a_function_of_the_seed() -> None:
    few = Compose(harmful_per_frame=1, harmless_per_frame=1, neutralised_per_frame=1)
    first, again, other = (compose(few, random.Random(seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_keep_frames_take_both_labels_equally() -> None:
    few = Compose(harmful_per_frame=3, harmless_per_frame=3, neutralised_per_frame=0)
    examples = compose(few, random.Random(0))
    assert sum(e.harmful for e in examples) * 2 == len(examples)


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_source_reads_the_published_schema(tmp_path: Path) -> None:
    write(
        tmp_path / "catqa.jsonl",
        {"text": "bad", "harmful": True, "category": "Illegal Activity / Drug"},
        {"text": "left out", "harmful": True, "category": "Adult Content / Erotic text"},
        {"text": "unlabelled", "harmful": None},
        {"text": "   ", "harmful": True},
        {"text": "fine", "harmful": False},
    )
    found = load_source(Source(path="catqa.jsonl", exclude_categories=("Adult Content",)), [tmp_path])
    assert [(e.text, e.harmful, e.hazard) for e in found] == [("bad", True, "S2"), ("fine", False, None)]


def test_a_response_row_trains_the_output_rail(tmp_path: Path) -> None:
    write(tmp_path / "r.jsonl", {"text": "q", "response": "a", "response_harmful": True, "harmful": None})
    [example] = load_source(Source(path="r.jsonl", rail="output"), [tmp_path])
    assert (example.text, example.query, example.harmful, example.rail) == ("a", "q", True, "output")


@pytest.mark.parametrize(("label", "usable"), [({"harmful": True}, 0), ({}, 0), ({"harmful": False}, 1)])
def test_an_answer_without_a_label_is_harmless_only_beside_a_harmless_query(
    tmp_path: Path, label: dict[str, bool], usable: int
) -> None:
    write(tmp_path / "r.jsonl", {"text": "q", "response": "a", **label})
    found = read_source(Source(path="r.jsonl", rail="output"), [tmp_path])
    assert (len(found.examples), found.unusable) == (usable, 1 - usable)
    assert not any(example.harmful for example in found.examples)


def test_a_source_without_a_usable_row_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "mine.jsonl", {"text": "q", "harmful": 1}, {"text": "r", "harmful": 1})
    with pytest.raises(ConfigError, match=r"no row of mine.jsonl is usable; line 1: 'harmful' must be true, false"):
        load_source(Source(path="mine.jsonl"), [tmp_path])


@pytest.mark.parametrize("line", ["{", "[1]", "1"])
def test_a_bad_line_is_named_without_its_text(tmp_path: Path, line: str) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text(f'{{"text": "ok"}}\n{line}\n')
    with pytest.raises(ConfigError, match=r"x\.jsonl, line 2"):
        read_jsonl(file)


USER_FAULTS = [
    ('{"text": "caf\u00e9"}'.encode("latin-1"), r"mine\.jsonl, line 1: not UTF-8"),
    ('{"text": "a"}'.encode("utf-16"), r"mine\.jsonl, line 1: not UTF-8"),
    (b'{"text": "a", "harmful": false}\n{"turns": ["SECRET", "b"]}', r"mine\.jsonl, line 2: 'turns' are read in the"),
    (b'{"text": "SECRET", "harmful": true, "category": [3]}', r"mine\.jsonl, line 1: 'category' must be text or null"),
]


@pytest.mark.parametrize(("content", "message"), USER_FAULTS)
def test_a_users_fault_is_named_by_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "mine.jsonl").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_source(Source(path="mine.jsonl"), [tmp_path])
    assert "SECRET" not in str(caught.value)


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a", "harmful": false}\n')
    assert [e.text for e in load_source(Source(path="mine.jsonl"), [tmp_path])] == ["a"]


def test_a_label_column_of_a_users_own_decides_nothing(tmp_path: Path) -> None:
    rows = [{"text": t, "harmful": h, "label": v} for t, h, v in (("a", True, "safe"), ("b", False, "toxic SECRET"))]
    write(tmp_path / "mine.jsonl", *rows, {"text": "c", "label": "S9"})
    found = load_source(Source(path="mine.jsonl"), [tmp_path])
    assert [(e.text, e.harmful, e.hazard) for e in found] == [("a", True, None), ("b", False, None)]


def test_what_nothing_is_learnt_from_is_counted_and_the_first_is_placed(tmp_path: Path) -> None:
    bad: list[object] = [{"text": "SECRET", "harmful": label} for label in ("true", 1, None)]
    bad += [{"harmful": True}, {"text": 3}, {"text": " "}, {"text": "SECRET" * 9, "harmful": True}]
    whys = (
        "'harmful' must be true, false or null, got str",
        "'harmful' must be true, false or null, got int",
        "no label in 'harmful'",
        "'text' is missing",
        "'text' must be text, got int",
        "'text' is empty",
        "longer than 50 characters",
    )
    for row, why in zip(bad, whys, strict=True):
        write(tmp_path / "mine.jsonl", {"text": "fine", "harmful": False}, row, *bad)
        found = read_source(Source(path="mine.jsonl", max_chars=50), [tmp_path])
        assert (len(found.examples), found.rows, found.unusable) == (1, 9, 8)
        assert found.first == f"line 2: {why}"


def test_a_draw_is_balanced_and_bounded() -> None:
    rows = [Example(text=str(i), harmful=i < 30) for i in range(100)]
    drawn = draw(Source(path="x", rows=20), rows, random.Random(0))
    assert len(drawn) == 20
    assert sum(e.harmful for e in drawn) == 10
    drawn = draw(Source(path="x", rows=90), rows, random.Random(0))
    assert (len(drawn), sum(e.harmful for e in drawn)) == (90, 30)


def test_validation_rows_never_train(tmp_path: Path) -> None:
    write(tmp_path / "s.jsonl", *({"text": f"row {i}", "harmful": bool(i % 2)} for i in range(400)))
    config = TrainConfig(sources=(Source(path="s.jsonl"),), validation_fraction=0.2)
    pools = read_pools(config, [tmp_path])
    train = {e.text for e in epoch_examples(config, pools, 0)}
    assert pools.validation
    assert train.isdisjoint(e.text for e in pools.validation)
    assert all(held_out(e, 0.2) for e in pools.validation)
    assert 250 < len(train) < 390


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipes_are_valid_and_name_their_licences(path: Path) -> None:
    recipe = TrainConfig.from_toml(path)
    assert recipe.sources
    assert all(source.licence != "unstated" for source in recipe.sources)
    for source in recipe.sources:
        if source.path.startswith("corpus:"):
            assert (CORPUS / source.path.removeprefix("corpus:")).is_file()


def test_a_typo_in_a_recipe_is_an_error_with_a_suggestion(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("lambda_respnse = 1.0")
    with pytest.raises(ConfigError, match="did you mean 'lambda_response'"):
        TrainConfig.from_toml(tmp_path / "r.toml")


def test_refusals_only_keeps_the_responses_that_decline_in_words() -> None:
    every = read_pools(TrainConfig(), []).responses
    declining = read_pools(TrainConfig(refusals_only=True), []).responses
    kept, written = ({text for rows in found.values() for _, text in rows} for found in (declining, every))
    assert all(map(is_refusal, kept))
    assert kept == {text for text in written if is_refusal(text)} != written


def test_all_that_an_epoch_is_made_of_is_in_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outputs.jsonl").write_text(json.dumps({"text": "A page.", "harmful": False}) + "\n")
    config = TrainConfig(
        sources=(Source(path="outputs.jsonl", rail="tool_output"),),
        compose=Compose(harmful_per_frame=1, harmless_per_frame=1, answers_per_opening=1, refusals=1, documents=2),
    )
    read: set[str] = set()

    def noted(pattern: str) -> list[dict[str, str]]:
        read.add(pattern)
        return list(iter_corpus(pattern))

    for module in ("compose", "compose_documents", "mix"):
        monkeypatch.setattr(f"guardrail_plugin.training.{module}.iter_corpus", noted)
    pools = read_pools(config, [tmp_path])
    read.clear()
    epoch_examples(config, pools, 0)
    drawn_from = set(read)
    read.clear()
    with_frames = data_fingerprint(config, pools)
    assert read == drawn_from
    monkeypatch.setattr("guardrail_plugin.training.mix.iter_corpus", lambda _: [{"text": "changed"}])
    assert data_fingerprint(config, pools) != with_frames
    alone = config.model_copy(update={"compose": None})
    assert data_fingerprint(alone, pools) not in (with_frames, data_fingerprint(config, pools))
