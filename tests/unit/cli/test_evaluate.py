"""``guardrail evaluate``: options that have no use together are told, not dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from typer.testing import Result

from guardrail_plugin.cli import evaluate
from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.evals.dataset import EvalFile
from guardrail_plugin.evals.suite import read_suite

Invoke = Callable[..., Result]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["mine.jsonl"], "FILES"),
        (["--suite", "data"], "--suite"),
        (["--guardian", "baseline:tfidf"], "--guardian"),
        (["--policy", "strict.toml"], "--policy"),
        (["--responses", "all"], "--responses"),
        (["--show-text"], "--show-text"),
        (["--train", "data", "--rail", "input"], "--rail, --train"),
    ],
)
def test_a_comparison_refuses_what_it_would_drop(guardrail: Invoke, given: Sequence[str], named: str) -> None:
    result = guardrail("evaluate", "--compare", "a", "b", *given)
    assert result.exit_code == 2
    assert f"leave out {named}\n" in result.stderr


def test_a_comparison_takes_no_offence_at_the_environment(
    guardrail: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GUARDRAIL_GUARDIAN", "mine")
    monkeypatch.setenv("GUARDRAIL_POLICY", "strict.toml")
    result = guardrail("evaluate", "--compare", str(tmp_path / "a"), "b", "--seed", "1", "--quiet")
    assert result.exit_code == 2
    assert "is not an --out of guardrail evaluate" in result.stderr


def test_development_files_are_a_suites(guardrail: Invoke, tmp_path: Path) -> None:
    result = guardrail("evaluate", "mine.jsonl", "--development", "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "name their folder with --suite" in result.stderr


def test_a_number_of_responses_that_is_none_is_told_before_the_guardian_is_loaded(
    guardrail: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(evaluate, "open_session", load)
    result = guardrail("evaluate", "mine.jsonl", "--out", str(tmp_path / "out"), "--responses", "few")
    assert result.exit_code == 2
    assert "a number of queries, or all" in " ".join(result.output.split())


@pytest.mark.parametrize("development", [True, False])
def test_a_baseline_is_told_what_it_is_measured_on(
    guardrail: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, development: bool
) -> None:
    asked: dict[str, object] = {}

    def open_baseline(*_: object, **options: object) -> None:
        asked.update(options)
        raise ConfigError("enough")

    for entry in (*read_suite().files, *read_suite().development):
        (tmp_path / entry.path).parent.mkdir(exist_ok=True)
        (tmp_path / entry.path).touch()
    monkeypatch.setattr("guardrail_plugin.evals.baselines.open_baseline", open_baseline)
    options = ["--suite", str(tmp_path), "--guardian", "baseline:tfidf", "--train", str(tmp_path)]
    options += ["--development"] if development else []
    assert "enough" in guardrail("evaluate", *options, "--out", str(tmp_path / "out")).stderr
    suite = read_suite().development if development else read_suite().files
    assert asked["measured"] == [entry.file(tmp_path) for entry in suite]


def test_a_baseline_is_told_what_it_is_calibrated_on(
    guardrail: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, object] = {}

    def open_baseline(*_: object, **options: object) -> None:
        asked.update(options)
        raise ConfigError("enough")

    monkeypatch.setattr("guardrail_plugin.evals.baselines.open_baseline", open_baseline)
    mine = tmp_path / "mine.jsonl"
    options = ["--guardian", "baseline:tfidf", "--train", str(mine), "--data", str(mine)]
    assert "enough" in guardrail("calibrate", *options).stderr
    assert asked["measured"] == [EvalFile(mine)]
