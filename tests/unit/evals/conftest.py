"""Fixtures: JSONL files, scores without a guardian, and a guardian that reads its risk off the text."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.evals.score import Score
from guardrail_plugin.guardian.guardian import Guardian
from guardrail_plugin.guardian.protocol import CheckOutcome
from guardrail_plugin.testing import ScriptedGuardian, verdict

WriteJsonl = Callable[..., Path]


@pytest.fixture
def write_jsonl(tmp_path: Path) -> WriteJsonl:
    """Write rows (objects, or text that is written as it is) into a file of the test's folder."""

    def write(name: str, rows: Sequence[dict[str, Any] | str]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture
def reads_risk() -> ScriptedGuardian:
    """A guardian that takes ``risk=0.7`` in a text at its word and finds the rest harmless."""

    def judge(check: Check) -> CheckOutcome:
        risk = float(check.text.partition("risk=")[2] or 0.0)
        return verdict(risk=risk, hazard="S1" if risk else None)

    return ScriptedGuardian(judge, guardian_id="reads-risk")


@pytest.fixture
def make_scores() -> Callable[..., list[Score]]:
    """Build scores from (label, risk) pairs, acted on at 0.5."""

    def make(pairs: Sequence[tuple[bool, float]], **fields: Any) -> list[Score]:
        return [Score(str(i), label, risk, risk >= 0.5, **fields) for i, (label, risk) in enumerate(pairs)]

    return make


class OwnGuardian(Guardian):
    """A guardian in the library's own format, of settings and one id, whose answers are a script's."""

    def __init__(self, script: ScriptedGuardian, **settings: Any) -> None:
        family = SimpleNamespace(encode=str.split)
        super().__init__(pool=None, model_key="own-12345678", family=family, **settings)
        self.script = script
        self.check_many, self.arespond = script.check_many, script.arespond


@pytest.fixture
def own_guardian() -> Callable[..., OwnGuardian]:
    """Build a guardian of these settings around a script."""
    return OwnGuardian
