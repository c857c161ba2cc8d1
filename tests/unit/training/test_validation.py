"""What the held-out rows decide: nothing where there are few of them."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from guardrail_plugin.guardian.manifest import Calibration  # noqa: E402
from guardrail_plugin.training import validation  # noqa: E402
from guardrail_plugin.training.config import TrainConfig  # noqa: E402
from guardrail_plugin.training.rows import Example  # noqa: E402


@pytest.mark.parametrize(("harmful", "harmless", "temperature"), [(3, 40, 1.0), (40, 3, 1.0), (40, 40, 0.5)])
def test_a_handful_of_rows_fits_no_temperature(
    monkeypatch: pytest.MonkeyPatch, harmful: int, harmless: int, temperature: float
) -> None:
    examples = [Example(text=str(i), harmful=i < harmful) for i in range(harmful + harmless)]
    told_apart = torch.tensor([2.0 if example.harmful else -2.0 for example in examples])
    monkeypatch.setattr(validation, "risk_log_odds", lambda *_, **__: told_apart)
    rows: Any = examples
    found = validation.validate(None, rows, examples, config=TrainConfig())  # type: ignore[arg-type]
    assert found.calibration["input"].temperature == temperature
    assert (found.f1["input"], found.auroc["input"]) == (1.0, 1.0)


def test_a_rail_with_few_rows_keeps_what_the_run_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [Example(text=str(i), harmful=i < 3, rail="output") for i in range(40)]
    monkeypatch.setattr(validation, "risk_log_odds", lambda *_, **__: torch.linspace(3, -3, 40))
    began = {"output": Calibration(temperature=1.7, threshold=0.3), "tool_output": Calibration(temperature=2.0)}
    rows: Any = examples
    found = validation.validate(None, rows, examples, config=TrainConfig(), began=began)  # type: ignore[arg-type]
    assert found.calibration == began
    assert validation.validate(None, [], [], config=TrainConfig(), began=began).calibration == began  # type: ignore[arg-type]
    assert list(found.f1) == ["output"]


def test_a_rail_that_is_fitted_anew_keeps_its_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [Example(text=str(i), harmful=i < 20) for i in range(40)]
    monkeypatch.setattr(validation, "risk_log_odds", lambda *_, **__: torch.linspace(3, -3, 40))
    rows: Any = examples
    began = {"input": Calibration(temperature=1.7, threshold=0.55)}
    found = validation.validate(None, rows, examples, config=TrainConfig(), began=began)  # type: ignore[arg-type]
    assert found.calibration == {"input": Calibration(temperature=0.5, threshold=0.55)}
