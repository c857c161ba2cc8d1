"""The loss, as laws."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from guardrail_plugin.training.encode import UNKNOWN_HAZARD  # noqa: E402
from guardrail_plugin.training.loss import detection_loss, response_loss, total_loss  # noqa: E402


def test_detection_is_cross_entropy_over_labels() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([1]))
    assert torch.allclose(detection_loss(logits, torch.tensor([1]), smoothing=0.0), expected)


def test_an_unknown_hazard_asks_only_for_not_safe() -> None:
    logits = torch.tensor([[0.0, 1.0, 3.0]])
    p = logits.softmax(-1)[0]
    loss = detection_loss(logits, torch.tensor([UNKNOWN_HAZARD]), smoothing=0.1)
    assert math.isclose(loss.item(), -math.log(1 - p[0].item()), rel_tol=1e-5)
    swapped = detection_loss(logits[:, [0, 2, 1]], torch.tensor([UNKNOWN_HAZARD]), smoothing=0.1)
    assert torch.allclose(loss, swapped)


def test_no_response_in_the_batch_costs_nothing_and_still_has_a_gradient() -> None:
    logits = torch.zeros(0, 5, requires_grad=True)
    loss = response_loss(logits, torch.zeros(0, dtype=torch.long))
    assert loss.item() == 0.0
    loss.backward()
    assert logits.grad is not None


def test_total_is_detection_plus_lambda_response() -> None:
    assert total_loss(torch.tensor(1.0), torch.tensor(4.0), lambda_response=0.25).item() == 2.0
