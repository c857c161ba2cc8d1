"""``guardrail mix`` on sets that are too small to probe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

pytest.importorskip("sklearn")

Invoke = Callable[..., Result]


@pytest.mark.parametrize("labels", [[True] * 40, [True] * 3 + [False] * 30, [True, False]])
@pytest.mark.parametrize("balance", ["true", "false"])
def test_a_small_or_one_sided_set_is_told(guardrail: Invoke, tmp_path: Path, labels: list[bool], balance: str) -> None:
    rows = [{"text": f"word {i} here", "harmful": label} for i, label in enumerate(labels)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = tmp_path / "mine.toml"
    recipe.write_text(f'style_balance = {balance}\nvalidation_fraction = 0.0\n[[sources]]\npath = "mine.jsonl"\n')
    result = guardrail("mix", "--config", str(recipe), "--data", str(tmp_path))
    assert result.exit_code == 0
    assert f"{len(labels)} rows, 0 held out" in result.stdout
    assert "Style probe, as drawn: too few rows per label for a style probe" in result.stdout
