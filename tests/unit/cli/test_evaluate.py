"""``guardrail evaluate``: options that have no use together are told, not dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from typer.testing import Result

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
