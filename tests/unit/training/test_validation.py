"""What the held-out rows decide: nothing where there are few of them."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

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
