"""The check at load: right engines pass with room to spare, wrong ones fail by far, in 32 and in 16 bits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import transformers  # noqa: E402
from torch import Tensor  # noqa: E402

from guardrail_plugin.models import torch_engine  # noqa: E402
from guardrail_plugin.models.kept import Ids, Prefix  # noqa: E402
from guardrail_plugin.models.load import load_causal_lm  # noqa: E402
from guardrail_plugin.models.torch_attention import Attention, Span  # noqa: E402
from guardrail_plugin.models.torch_generic import GenericEngine  # noqa: E402
from guardrail_plugin.models.torch_packed import PackedEngine  # noqa: E402
from guardrail_plugin.models.torch_packed_rows import Packed, PackedRows  # noqa: E402


class Shifted(PackedEngine):
    """Counts positions one too high behind what was computed before."""

    def run(self, batch: Packed, kv: Tensor) -> Tensor:
        positions = batch.positions.clone()
        for span in batch.spans:
            positions[span.start : span.stop] += int(span.end > span.queries)
        return super().run(replace(batch, positions=positions), kv)


class LeakyAttention(Attention):
    """Shows every query one key of the neighbour's row."""

    def _row(self, q: Tensor, kv: Tensor, span: Span, mask: Tensor | None) -> Tensor:
        theirs = kv[:, (span.row + 1) % kv.shape[1], 4:5]
        row = torch.cat([theirs, kv[:, span.row, : span.end]], dim=1)[:, None]  # (2, 1, 1 + end, kv heads, D)
        seen = None if mask is None else torch.cat([mask.new_zeros(len(mask), 1), mask], dim=1)
        return super()._row(q, row, Span(0, span.start, span.stop, span.end + 1), seen)


class Leaking(PackedEngine):
    """Its mask lets a neighbour's row through."""

    def _attention(self, spans: Sequence[Span]) -> Attention:
        return LeakyAttention(spans, heads=self.heads, kv_heads=self.kv_heads, like=self._embed)


class Confused(PackedEngine):
    """Takes another prompt's keys and values for the kept ones."""

    def open(self, prompts: Sequence[Ids], prefixes: Sequence[Prefix], *, room: int = 0) -> PackedRows:
        wrong = [self._other(prefix) for prefix in prefixes]
        return super().open(prompts, wrong, room=room)

    def _other(self, prefix: Prefix) -> Prefix:
        if not prefix.length:
            return prefix
        rows = super().open([tuple(range(3, 3 + prefix.length))], [Prefix()])
        rows.prefill()
        return Prefix(prefix.length, (rows.segment(0, 0),))


WRONG = [Shifted, Leaking, Confused]
FORMATS = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(params=FORMATS, ids=str)
def small(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)  # sharp attention, as in trained models
    for name, weight in model.named_parameters():
        if "norm" in name:
            torch.nn.init.ones_(weight)
    return model.to(request.param)


def test_right_engines_pass(small: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert torch_engine.choose_engine(small).name == "packed"
    assert not caplog.records


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_engines_are_given_up(
    small: Any, wrong: type[PackedEngine], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch_engine, "PackedEngine", wrong)
    with caplog.at_level(logging.WARNING):
        assert torch_engine.choose_engine(small).name == "generic"
    assert "the packed engine is not used, it differs from the model by" in caplog.text


def test_numbers_that_are_none_are_given_up(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(PackedEngine):
        def head(self, final: Tensor, columns: Tensor | slice) -> Tensor:
            return super().head(final, columns) * float("nan")

    monkeypatch.setattr(torch_engine, "PackedEngine", Broken)
    assert torch_engine.choose_engine(small).name == "generic"


def test_distance_is_zero_for_equals_and_one_for_strangers() -> None:
    here, there = torch.tensor([[0.0, -200.0]]), torch.tensor([[-200.0, 0.0]])
    assert torch_engine.distance(here, here) == 0
    assert torch_engine.distance(here, there) == pytest.approx(1)


@torch.inference_mode()  # type: ignore[untyped-decorator, unused-ignore]
def test_the_limit_lies_far_from_both_sides_on_the_embedded_model(embedded_base: Path) -> None:
    model = load_causal_lm(embedded_base, dtype=torch.bfloat16)
    prompts = torch_engine._probe(model.get_input_embeddings().num_embeddings)
    expected = torch_engine._from_nothing(GenericEngine(model, reuses=False), prompts)

    def apart(engine: Any) -> float:
        return torch_engine.distance(torch_engine._from_kept(engine, prompts), expected)

    right = [apart(PackedEngine(model)), apart(GenericEngine(model))]
    wrong = [apart(kind(model)) for kind in WRONG]
    assert max(right) < torch_engine.MAX_DISTANCE_16_BIT / 2.5, right
    assert min(wrong) > torch_engine.MAX_DISTANCE_16_BIT * 2.5, wrong
    assert torch_engine.choose_engine(model).name == "packed"
