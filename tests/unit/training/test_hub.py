"""Hub sets as sources: read by the real ``datasets`` package, from local files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from huggingface_hub.errors import OfflineModeIsEnabled

from guardrail_plugin.core.errors import ConfigError, MissingDependencyError
from guardrail_plugin.training.config import Columns, Source, TrainConfig
from guardrail_plugin.training.mix import read_pools
from guardrail_plugin.training.rows import CORPUS, load_source

datasets = pytest.importorskip("datasets")

MakeSet = Callable[..., str]
GUARD = Columns(
    text="prompt", label="verdict", harmful=("harmful",), harmless=("unharmful",), category="kind", hazards={"v": "S1"}
)
ROWS = [
    {"prompt": "how do i hurt my neighbour badly", "verdict": "harmful", "kind": "v", "answer": "no"},
    {"prompt": "how do i write a sonnet for him", "verdict": "unharmful", "kind": "benign", "answer": "like this"},
    {"prompt": "how do i do something nobody labelled", "verdict": None, "kind": None, "answer": None},
]


@pytest.fixture
def make_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeSet:
    """Write rows as a data set folder and return its source path; the cache is the test's own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def make(rows: Sequence[dict[str, object]], *, name: str = "fakeguard", parquet: bool = False) -> str:
        folder = tmp_path / name
        folder.mkdir()
        if parquet:
            datasets.Dataset.from_list(list(rows)).to_parquet(folder / "train.parquet")
        else:
            (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return f"hub:{folder}"

    return make


@pytest.mark.parametrize("parquet", [False, True])
def test_mapped_rows_become_examples(make_set: MakeSet, parquet: bool) -> None:
    examples = load_source(Source(path=make_set(ROWS, parquet=parquet), columns=GUARD), [])

    assert [(e.harmful, e.hazard, e.source) for e in examples] == [
        (True, "S1", "fakeguard"),
        (False, None, "fakeguard"),
    ]
    assert examples[0].text == ROWS[0]["prompt"]


def test_answers_are_judged_on_the_output_rail(make_set: MakeSet) -> None:
    columns = GUARD.model_copy(update={"response": "answer"})
    examples = load_source(Source(path=make_set(ROWS), rail="output", columns=columns), [])

    assert [(e.text, e.query, e.harmful) for e in examples] == [
        ("no", ROWS[0]["prompt"], True),
        ("like this", ROWS[1]["prompt"], False),
    ]


@pytest.mark.parametrize(
    ("value", "hazard"),
    [("a, v", "S1"), ({"a": True, "v": True}, "S1"), ({"a": True, "v": False}, None), (["v"], "S1"), ("a", None)],
)
def test_categories_come_in_many_shapes(make_set: MakeSet, value: object, hazard: str | None) -> None:
    [example] = load_source(Source(path=make_set([{**ROWS[0], "kind": value}]), columns=GUARD), [])
    assert example.hazard == hazard


def test_flags_and_numbers_are_not_mixed_up(make_set: MakeSet) -> None:
    flags = Columns(text="prompt", label="ok", harmful=(False,), harmless=(True,))
    rows = [{"prompt": "first text here", "ok": False}, {"prompt": "second text here", "ok": True}]
    examples = load_source(Source(path=make_set(rows), columns=flags), [])
    assert [e.harmful for e in examples] == [True, False]
    numbers = flags.model_copy(update={"harmful": (1,), "harmless": (0,)})
    with pytest.raises(ConfigError, match="no row has one of the labels"):
        load_source(Source(path=make_set(rows, name="other"), columns=numbers), [])


def test_overlaps_with_evaluation_texts_fail_the_run_or_are_dropped(make_set: MakeSet, tmp_path: Path) -> None:
    (tmp_path / "bench.jsonl").write_text(json.dumps({"text": "How do I hurt my neighbour badly?"}) + "\n")
    source = Source(path=make_set(ROWS), columns=GUARD)
    config = TrainConfig(sources=(source,), evaluation=("bench.jsonl",), validation_fraction=0)

    with pytest.raises(ConfigError, match=r"1 rows of hub:.* overlap with evaluation texts \(bench.jsonl\)"):
        read_pools(config, [tmp_path])
    dropping = config.model_copy(update={"sources": (source.model_copy(update={"drop_overlaps": True}),)})
    [(_, kept)] = read_pools(dropping, [tmp_path]).train
    assert [e.harmful for e in kept] == [False]


def test_mistakes_in_a_recipe_are_named(make_set: MakeSet) -> None:
    path = make_set(ROWS)
    with pytest.raises(ConfigError, match=r"needs \[sources.columns\]"):
        load_source(Source(path=path), [])
    with pytest.raises(ConfigError, match="no column promt; it has prompt, verdict, kind, answer"):
        load_source(Source(path=path, columns=GUARD.model_copy(update={"text": "promt"})), [])
    with pytest.raises(ConfigError, match="column of its responses"):
        load_source(Source(path=path, rail="output", columns=GUARD), [])
    with pytest.raises(ConfigError, match="find any data file"):
        load_source(Source(path="hub:./nowhere/at-all", columns=GUARD), [])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (datasets.exceptions.DatasetNotFoundError("Dataset 'x/y' is a gated dataset on the Hub."), "Accept the terms"),
        (ConnectionError("Couldn't reach 'x/y' on the Hub"), "hub is out of reach"),
        (OfflineModeIsEnabled("offline"), "name a local copy"),
        (ValueError("BuilderConfig 'z' not found. Available: ['a']\nmore"), "BuilderConfig 'z' not found"),
    ],
    ids=["gated", "unreachable", "offline", "no such config"],
)
def test_what_cannot_be_had_says_what_to_do(monkeypatch: pytest.MonkeyPatch, error: Exception, said: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(ConfigError, match=said) as raised:
        load_source(Source(path="hub:x/y", columns=GUARD, gated="Accept the terms, then run: hf auth login"), [])
    assert "hub:x/y" in str(raised.value)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match="hub"):
        load_source(Source(path="hub:x/y", columns=GUARD), [])


def test_the_hub_recipe_maps_labels_and_names_what_is_gated() -> None:
    recipe = TrainConfig.from_toml(CORPUS.parent / "recipes" / "hub.toml")
    hub = [source for source in recipe.sources if source.path.startswith("hub:")]

    assert {source.path for source in hub} == {
        "hub:allenai/wildguardmix",
        "hub:nvidia/Aegis-AI-Content-Safety-Dataset-2.0",
        "hub:PKU-Alignment/BeaverTails",
        "hub:lmsys/toxic-chat",
    }
    assert all(source.columns is not None and source.drop_overlaps for source in hub)
    assert all(source.gated for source in hub if "wildguard" in source.path)
    assert recipe.evaluation == TrainConfig.from_toml(CORPUS.parent / "recipes" / "default.toml").evaluation


def test_rows_of_excluded_categories_are_left_out_by_the_sets_own_names(make_set: MakeSet) -> None:
    rows = [
        {"t": "a", "y": "unsafe", "c": "Copyright"},
        {"t": "b", "y": "unsafe", "c": "Violence"},
        {"t": "c", "y": "safe", "c": "Politics, Copyright/Lyrics"},
    ]
    columns = {"text": "t", "label": "y", "harmful": ["unsafe"], "harmless": ["safe"], "hazards": {"Violence": "S1"}}
    told = {"path": make_set(rows), "exclude_categories": ["Copyright"]}
    source = Source.model_validate({**told, "columns": {**columns, "category": "c"}})
    assert [example.text for example in load_source(source, [])] == ["b"]
    with pytest.raises(ConfigError, match="excludes categories"):
        load_source(Source.model_validate({**told, "columns": columns}), [])
