"""The capacity of a device on paper: known values of queueing theory and of the model's cost."""

from __future__ import annotations

import pytest

from guardrail_plugin.bench.capacity import EMBEDDED, Device, mean_wait_s, wait_probability, wait_quantile_s


def test_the_embedded_model_costs_what_was_counted() -> None:
    assert EMBEDDED.body_weights == 106_168_320
    assert EMBEDDED.verdict_flops(tokens=29, kept=65) == pytest.approx(6.42e9, rel=0.04)  # the survey, 29.4 tokens
    assert EMBEDDED.verdict_flops(tokens=94) == pytest.approx(20.4e9, rel=0.02)


def test_kept_tokens_cost_attention_only() -> None:
    behind = EMBEDDED.verdict_flops(tokens=10, kept=500)
    assert EMBEDDED.verdict_flops(tokens=10) < behind < EMBEDDED.verdict_flops(tokens=510) / 20


def test_verdicts_per_second_grow_with_the_fraction() -> None:
    device = Device(name="core", peak_flops=76e9, fraction=0.87, measured=True)
    assert device.verdicts_per_s(EMBEDDED, tokens=29, kept=65) == pytest.approx(10.4, abs=0.3)


@pytest.mark.parametrize(
    ("servers", "load", "expected"), [(1, 0.7, 0.7), (2, 0.5, 1 / 3), (10, 0.8, 0.409), (1, 0.0, 0)]
)
def test_erlang_c(servers: int, load: float, expected: float) -> None:
    assert wait_probability(servers, load) == pytest.approx(expected, abs=1e-3)


def test_one_server_is_the_textbook_queue() -> None:
    assert mean_wait_s(1, 0.8, service_s=2.0) == pytest.approx(8.0)  # M/M/1: load / (1 - load) services
    assert mean_wait_s(1, 0.8, service_s=2.0, variability=0.0) == pytest.approx(4.0)  # M/D/1: half of it
    assert wait_quantile_s(0.1, 1, 0.8, service_s=2.0) == 0.0, "one in five does not wait at all"


@pytest.mark.parametrize("load", [-0.1, 1.0, 3.0])
def test_no_steady_state_no_number(load: float) -> None:
    with pytest.raises(ValueError, match="load"):
        wait_probability(4, load)
