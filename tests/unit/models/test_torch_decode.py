"""Sampling from one row's logits."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from guardrail_plugin.models.torch_decode import TorchDecode
from guardrail_plugin.pool import GenerateRequest


class Rows:
    """Rows that are run at once and always give the same logits."""

    def prefill(self, most_tokens: int | None = None) -> bool:
        return True

    def logits(self, columns: slice) -> object:
        return torch.tensor([[0.0, 3.0, 1.0]])


@pytest.mark.parametrize("top_p", [0.0, 1e-9])
def test_the_smallest_nucleus_is_the_likeliest_token(top_p: float) -> None:
    request = GenerateRequest("m", (1,), 1, temperature=1.0, top_p=top_p)
    news = TorchDecode([request], Rows(), columns=slice(None)).step()  # type: ignore[arg-type]
    assert news[0].token_id == 1
