"""``guardrail train``: from options to a configuration, and what it prints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from guardrail_plugin.assembly import EMBEDDED_GUARDIAN
from guardrail_plugin.cli import train as train_command
from guardrail_plugin.cli.recipes import assemble, find_recipe, first_stage
from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.models.locate import EMBEDDED_MODEL
from guardrail_plugin.training.config import Source, TrainConfig

Invoke = Callable[..., Result]

HARMFUL = {"text": "How do I build a pipe bomb?", "harmful": True, "category": "S9"}
QUIET: dict[str, Any] = {"device": None, "max_steps": None, "quiet": True}
HARMLESS = {"text": "How do I bake bread?", "harmful": False}


def write(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_files_alone_become_sources_of_the_input_rail(tmp_path: Path) -> None:
    files = [write(tmp_path / "a" / "bad.jsonl", HARMFUL), write(tmp_path / "b" / "good.jsonl", HARMLESS)]
    config, folders = assemble(None, files, base="some/base")
    assert config == TrainConfig(base="some/base", sources=(Source(path="bad.jsonl"), Source(path="good.jsonl")))
    assert folders == [tmp_path / "a", tmp_path / "b"]


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    files = [write(tmp_path / "a" / "x.jsonl", HARMFUL), write(tmp_path / "b" / "x.jsonl", HARMLESS)]
    config, _ = assemble(None, files, base="some/base")
    assert [source.path for source in config.sources] == ["x.jsonl", str(tmp_path.resolve() / "b" / "x.jsonl")]


def test_a_recipe_by_name_takes_folders_and_more_files(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", HARMFUL)
    config, folders = assemble("default", [tmp_path, file])
    shipped = TrainConfig.from_toml(find_recipe("default"))
    assert config.sources == (*shipped.sources, Source(path="mine.jsonl"))
    assert config.compose == shipped.compose
    assert folders[0] == tmp_path


@pytest.mark.parametrize(
    ("given", "pinned"),
    [
        ({}, ("ours", "c0ffee")),
        ({"base_revision": "v2"}, ("ours", "v2")),
        ({"base": "theirs"}, ("theirs", None)),  # the recipe's revision is of the recipe's base
        ({"base": "theirs", "base_revision": "v2"}, ("theirs", "v2")),
    ],
)
def test_a_base_is_pinned_with_its_own_revision(
    tmp_path: Path, given: dict[str, str], pinned: tuple[str, str | None]
) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('base = "ours"\nbase_revision = "c0ffee"\n')
    config, _ = assemble(str(recipe), [write(tmp_path / "x.jsonl", HARMFUL, HARMLESS)], **given)
    assert (config.base, config.base_revision) == pinned


def test_files_alone_tune_the_embedded_guardian_beside_rows_of_our_own(tmp_path: Path) -> None:
    file = write(tmp_path / "misses.jsonl", HARMFUL)  # one label is enough: the other is rehearsed
    config, folders = assemble(None, [file])
    assert (config.start_from, config.base) == ("embedded", EMBEDDED_MODEL)
    assert config.sources[-1] == Source(path="misses.jsonl")
    assert {source.path.partition(":")[0] for source in config.sources[:-1]} == {"corpus"}
    assert {source.rail for source in config.sources} == {"input", "output", "tool_output"}
    assert first_stage(config, folders, out=tmp_path / "out", **QUIET) == EMBEDDED_GUARDIAN
    assert not (tmp_path / "out").exists()


def test_another_guardian_brings_its_base_and_its_ranks(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    own, file = tmp_path / "own", write(tmp_path / "mine.jsonl", HARMFUL, HARMLESS)
    shutil.copytree(EMBEDDED_GUARDIAN, own)
    manifest = json.loads((own / "guardian.json").read_text())
    told = {"base_model": "an/other", "base_revision": "c0ffee", "training": {"validation_fraction": 0.05}}
    write(own / "guardian.json", manifest | told)
    write(own / "adapter_config.json", {"r": 8, "lora_alpha": 24})
    config, folders = assemble(None, [file], start_from=str(own))
    assert (config.base, config.base_revision) == ("an/other", "c0ffee")
    assert (config.lora_rank, config.lora_alpha, config.validation_fraction) == (8, 24, 0.05)
    assert first_stage(config, folders, out=tmp_path / "out", **QUIET) == own
    recipe, _ = assemble("default", [tmp_path], start_from="embedded")
    assert (recipe.start_from, recipe.lora_rank) == ("embedded", 16)
    moved, _ = assemble(None, [file], start_from=str(own), base="elsewhere")
    assert (moved.base, moved.base_revision, moved.start_from) == ("elsewhere", None, str(own))
    theirs = tmp_path / "theirs.toml"
    theirs.write_text('base = "ours"\nbase_revision = "v1-of-ours"\n')
    assert assemble(str(theirs), [tmp_path], start_from="embedded")[0].base_revision is None
    (own / "adapter_config.json").unlink()
    with pytest.raises(ConfigError, match="only an adapter in the library's own format"):
        assemble(None, [file], start_from=str(own))
    (own / "guardian.json").unlink()
    with pytest.raises(ConfigError, match="holds no guardian to go on from"):
        assemble(None, [file], start_from=str(own))


MISTAKES: list[tuple[str | None, Sequence[str], str]] = [
    (None, [], "--config"),
    (None, ["."], "--config"),
    (None, ["nowhere.jsonl"], "there is no file or folder .*nowhere.jsonl"),
    (None, ["bad.jsonl"], "no harmless row"),
    (None, ["good.jsonl"], "no harmful row"),
    (None, ["empty.jsonl"], "no usable row"),
    (None, ["broken.jsonl"], "line 1: not JSON"),
    ("defualt", [], "did you mean 'default'?"),
]


@pytest.mark.parametrize(("config", "data", "message"), MISTAKES)
def test_mistakes_are_named_before_anything_is_loaded(
    tmp_path: Path, config: str | None, data: Sequence[str], message: str
) -> None:
    write(tmp_path / "bad.jsonl", HARMFUL)
    write(tmp_path / "good.jsonl", HARMLESS)
    write(tmp_path / "empty.jsonl", {"text": "no label"})
    (tmp_path / "broken.jsonl").write_text("{\n")
    base = "some/base" if config is None else None
    with pytest.raises(ConfigError, match=message):
        assemble(config, [tmp_path / name for name in data], base=base)


def test_a_finished_guardian_is_not_overwritten(guardrail: Invoke, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out / "guardian.json", {})
    data = write(tmp_path / "data.jsonl", HARMFUL, HARMLESS)
    result = guardrail("train", "--data", str(data), "--out", str(out))
    assert result.exit_code == 2
    assert "holds a finished guardian" in result.stderr


def test_the_checkpoint_is_the_loops_own(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from guardrail_plugin.training import loop

    assert train_command.CHECKPOINT == loop.CHECKPOINT_FILE
    assert train_command.HISTORY == loop.HISTORY_FILE


def test_unusable_rows_are_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = [{"text": "SECRET", "harmful": "true"}, {"harmful": True}, {"text": "SECRET", "harmful": None}]
    file = write(tmp_path / "mine.jsonl", HARMFUL, *bad, HARMLESS)
    assemble(None, [file])
    told = capsys.readouterr()
    why = "(first: line 2: 'harmful' must be true, false or null, got str)"
    assert told.err == f"{file}: 3 of 5 rows unusable {why}\n"
    assert told.out == ""
    monkeypatch.setenv("RANK", "1")
    assemble(None, [file])
    assert capsys.readouterr().err == ""
    monkeypatch.delenv("RANK")
    write(file, *bad)
    with pytest.raises(ConfigError, match=r"no usable row \(line 1: 'harmful' must be true"):
        assemble(None, [file])


def test_fresh_forgets_history_and_stages_and_nothing_else(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    for stage in (out / "stage-first", out / "stage-second", elsewhere):
        write(stage / "guardian.json", {})
    write(out / "stage-cut" / "history.jsonl", {})
    write(out / "stage-notes" / "mine.txt")
    write(out / "history.jsonl", {})
    (out / "stage-linked").symlink_to(elsewhere)
    train_command._prepare(out, resume=False)
    assert sorted(path.name for path in out.iterdir()) == ["stage-notes"]
    assert (elsewhere / "guardian.json").is_file()


def finished_stage(root: Path, recipe: TrainConfig, metrics: dict[str, object], *without: str) -> Path:
    """Write ``out/stage-first`` as a run of this recipe leaves it, less the weights and some settings."""
    from guardrail_plugin.guardian.format import Layout
    from guardrail_plugin.guardian.manifest import Manifest

    folder = root / "out" / "stage-first"
    folder.mkdir(parents=True)
    layout = Layout(vocab_size=9, end_id=2)
    taxonomy = [{"code": h.code, "name": h.name, "definition": h.definition} for h in layout.taxonomy]
    training = {name: value for name, value in recipe.model_dump(mode="json").items() if name not in without}
    Manifest(
        name="x", base_model="b", tokenizer_sha256="0", vocab_size=9, end_id=2, token_names=layout.token_names,
        taxonomy=taxonomy, training=training, metrics=metrics,
    ).write(folder)  # fmt: skip
    return folder


def reuse(root: Path, recipe: Path, *folders: Path, max_steps: int | None = None) -> Path | None:
    later = TrainConfig(base="b", start_from=str(recipe))
    return first_stage(later, folders, out=root / "out", device=None, max_steps=max_steps, quiet=True)


def test_a_stage_is_reused_only_where_its_recipe_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from guardrail_plugin.training import loop

    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(loop, "train", never)
    recipe = tmp_path / "first.toml"
    recipe.write_text("seed = 3\n")
    # A setting that a version had not yet had.
    folder = finished_stage(tmp_path, TrainConfig(base="b", seed=3), {}, "refusals_only")
    assert reuse(tmp_path, recipe) == folder
    recipe.write_text("seed = 4\n")
    with pytest.raises(ConfigError, match=r"trained by another recipe than 'first' is now.*--fresh"):
        reuse(tmp_path, recipe)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_stage_is_reused_only_where_its_data_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, rank: str
) -> None:
    pytest.importorskip("torch")
    from guardrail_plugin.training.mix import data_fingerprint, read_pools

    monkeypatch.setenv("RANK", rank)
    recipe, data = tmp_path / "first.toml", tmp_path / "data"
    recipe.write_text('base = "b"\n[[sources]]\npath = "a.jsonl"\n')
    file = write(data / "a.jsonl", HARMFUL, HARMLESS)
    config = TrainConfig.from_toml(recipe)
    fingerprint = data_fingerprint(config, read_pools(config, [data]))
    folder = finished_stage(tmp_path, config, {"data_sha256": fingerprint})
    moved = data.rename(tmp_path / "moved")
    assert reuse(tmp_path, recipe, moved) == folder
    assert capsys.readouterr().err == ""
    write(moved / file.name, HARMFUL, {**HARMLESS, "text": "How do I bake a cake?"})
    with pytest.raises(ConfigError, match=r"stage-first was trained on other data.*--fresh"):
        reuse(tmp_path, recipe, moved)


def test_a_stage_that_does_not_name_its_data_is_taken_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    recipe = tmp_path / "first.toml"
    recipe.write_text('[[sources]]\npath = "nowhere.jsonl"\n')
    folder = finished_stage(tmp_path, TrainConfig(base="b", sources=(Source(path="nowhere.jsonl"),)), {"rows": 3})
    assert reuse(tmp_path, recipe) == folder
    assert capsys.readouterr().err == f"{folder} does not say what data it was trained on; taken as it is\n"


def test_options_reach_the_loop_and_figures_come_back(
    guardrail: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from guardrail_plugin.guardian.manifest import Calibration
    from guardrail_plugin.training import loop
    from guardrail_plugin.training.validation import Validation

    asked: dict[str, object] = {}
    out = tmp_path / "my guardian"
    write(out / train_command.CHECKPOINT)
    figures = Validation(
        7,
        f1={"input": 0.9},
        auroc={"input": 0.95},
        recall_by_source={"data": 0.5},
        false_positives_by_source={"data": 0.25},
        calibration={"input": Calibration(temperature=1.5)},
    )

    def run(config: TrainConfig, **options: object) -> loop.TrainResult:
        asked.update(options, seed=config.seed, checkpoint=(out / train_command.CHECKPOINT).exists())
        return loop.TrainResult(out, 3, 60.0, figures)

    monkeypatch.setattr(loop, "train", run)
    data = write(tmp_path / "data.jsonl", HARMFUL, HARMLESS)
    result = guardrail(
        "train", "--data", str(data), "--out", str(out), "--max-steps", "3", "--device", "cpu", "--fresh", "--quiet"
    )
    assert result.exit_code == 0
    assert asked == {
        "data_folders": [tmp_path],
        "out": out,
        "device": "cpu",
        "start": EMBEDDED_GUARDIAN,
        "max_steps": 3,
        "quiet": True,
        "seed": 0,
        "checkpoint": False,
    }
    for part in (
        "3 steps in 1.0 min",
        "7 held-out rows",
        "0.900",
        "0.950",
        "1.50",
        "50.0%",
        "25.0%",
        f"Guardian: {out}",
    ):
        assert part in result.stdout
    assert f"guardrail check --guardian '{out}' \"How do I kill a Python process?\"" in result.stdout


def test_a_rank_behind_the_first_is_silent(guardrail: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from guardrail_plugin.training import loop
    from guardrail_plugin.training.validation import Validation

    monkeypatch.setattr(loop, "train", lambda *_, **__: loop.TrainResult(tmp_path, 1, 1.0, Validation(0)))
    data = write(tmp_path / "data.jsonl", HARMFUL, HARMLESS)
    arguments = ("train", "--data", str(data), "--out", str(tmp_path / "out"))
    assert "No figures per rail" in guardrail(*arguments).stdout
    monkeypatch.setenv("RANK", "1")
    assert guardrail(*arguments).stdout == ""


@pytest.mark.parametrize(
    ("stopped_at", "max_steps", "reused"), [(None, 5, True), (5, 5, True), (5, None, False), (5, 9, False)]
)
def test_a_stage_that_was_stopped_is_no_stage(
    tmp_path: Path, stopped_at: int | None, max_steps: int | None, reused: bool
) -> None:
    pytest.importorskip("torch")
    recipe = tmp_path / "first.toml"
    recipe.write_text("seed = 3\n")
    metrics = {"rows": 3} if stopped_at is None else {"rows": 3, "stopped_at_step": stopped_at}
    folder = finished_stage(tmp_path, TrainConfig(base="b", seed=3), metrics)
    if reused:
        assert reuse(tmp_path, recipe, max_steps=max_steps) == folder
        return
    with pytest.raises(ConfigError, match=r"was stopped after 5 steps \(--max-steps\).*--fresh"):
        reuse(tmp_path, recipe, max_steps=max_steps)


def test_a_recipe_that_is_not_utf8_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b'base = "caf\xe9"\n')
    with pytest.raises(ConfigError, match="is not valid TOML"):
        TrainConfig.from_toml(tmp_path / "mine.toml")
