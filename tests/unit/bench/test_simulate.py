"""The simulated pool: deterministic, nothing lost, and it shows what a real pool does under load and failures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from guardrail_plugin.bench.paper import device_table, document, simulations
from guardrail_plugin.bench.simulate import saturated_rate, simulate
from guardrail_plugin.bench.traffic import Arrival, Traffic
from guardrail_plugin.bench.virtual import Speed

CALM = Speed(mean_life_s=1e12)
MORTAL = Speed(mean_life_s=20.0, build_s=2.0)
VERDICTS = Traffic(harmful=0.0, poison=0.0)


def test_the_same_seed_gives_the_same_figures() -> None:
    first, again, other = (simulate(replicas=2, load=0.8, requests=300, seed=seed) for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize("replicas", [1, 8])
@pytest.mark.parametrize("load", [0.5, 0.95, 3.0])
@pytest.mark.parametrize("speed", [CALM, MORTAL], ids=["calm", "mortal"])
def test_every_request_ends_exactly_once(replicas: int, load: float, speed: Speed) -> None:
    seen = simulate(replicas=replicas, load=load, requests=300, speed=speed)  # a lost or doubled one raises
    assert seen.answered + seen.rejected + seen.expired + seen.failed == seen.requests == 300
    assert (seen.deaths > 0) == (speed is MORTAL)


def test_a_calm_pool_below_its_limit_answers_everything() -> None:
    seen = simulate(replicas=4, load=0.8, requests=600, speed=CALM, traffic=VERDICTS)
    assert (seen.lost, seen.answered) == (0.0, 600)
    assert 0.3 < seen.busy <= 1.0
    assert seen.wait_p99_s < VERDICTS.timeout_s


def test_waits_grow_with_the_load_and_shrink_with_the_fleet() -> None:
    at = {
        (n, load): simulate(replicas=n, load=load, requests=800, speed=CALM, traffic=VERDICTS)
        for n, load in [(1, 0.5), (1, 0.95), (8, 0.95)]
    }
    assert at[1, 0.5].latency_p99_s < at[1, 0.95].latency_p99_s
    assert at[8, 0.95].wait_p99_s < at[1, 0.95].wait_p99_s, "one queue for all"


def test_only_poisoned_requests_fail_while_replicas_live() -> None:
    class OnePoisoned(Traffic):
        def arrivals(self, *, rate: float, count: int, seed: int) -> Iterator[Arrival]:
            for i, arrival in enumerate(super().arrivals(rate=rate, count=count, seed=seed)):
                yield replace(arrival, input_ids=(1, *arrival.input_ids[1:])) if i == 50 else arrival

    seen = simulate(replicas=2, load=0.9, requests=200, speed=CALM, traffic=OnePoisoned(harmful=0.0, poison=0.0))
    assert (seen.failed, seen.answered) == (1, 199)


@pytest.mark.parametrize("traffic", [replace(VERDICTS, tenants=1, heavy=1.0), VERDICTS], ids=["one app", "eight"])
@pytest.mark.parametrize("timeout_s", [3.0, 10.0])
@pytest.mark.parametrize("replicas", [1, 2, 8])
def test_overload_is_turned_away_and_the_rest_is_answered_in_time(
    replicas: int, timeout_s: float, traffic: Traffic
) -> None:
    traffic = replace(traffic, timeout_s=timeout_s)
    seen = simulate(replicas=replicas, load=3.0, requests=1500, speed=CALM, traffic=traffic)
    assert seen.answered > 0.25 * seen.requests
    assert seen.expired <= 0.03 * seen.answered, "those of the first second, when nothing was known"
    assert seen.latency_p99_s <= timeout_s


def test_a_pool_below_its_limit_that_also_decodes_and_dies_refuses_next_to_nobody() -> None:
    for load in (0.5, 0.7, 0.8):
        seen = simulate(replicas=1, load=load, requests=1000, traffic=Traffic())
        assert seen.rejected + seen.expired <= 0.03 * seen.requests


def test_responses_follow_their_verdicts() -> None:
    seen = simulate(replicas=2, load=0.4, requests=200, speed=CALM, traffic=Traffic(harmful=0.1))
    assert seen.responses > 5
    assert seen.responses_lost == 0
    assert seen.response_p50_s > Traffic().response_tokens * CALM.step_s


def test_saturated_means_full_batches() -> None:
    rate = saturated_rate(speed=CALM, traffic=VERDICTS)
    assert rate > 1 / (CALM.batch_s + CALM.token_s * VERDICTS.median_tokens)


@pytest.mark.parametrize("wrong", [{"replicas": 0}, {"load": 0.0}, {"requests": 0}])
def test_impossible_pools_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="positive"):
        simulate(**({"replicas": 1, "load": 0.5, "requests": 10} | wrong))  # type: ignore[arg-type]


def test_the_document_holds_both_tables_and_is_reproducible() -> None:
    rows = list(simulations(fleets=(1, 2), loads=(0.5, 3.0), requests=20))
    text = document(rows, requests=20, seed=0)
    assert text == document(list(simulations(fleets=(1, 2), loads=(0.5, 3.0), requests=20)), requests=20, seed=0)
    assert device_table() in text
    assert "$" not in text
    assert sum(line.startswith(("| 1 |", "| 2 |")) for line in text.splitlines()) == 4


def test_the_shipped_document_is_of_this_generator() -> None:
    import guardrail_plugin.pool

    shipped = (Path(guardrail_plugin.pool.__file__).parent / "CAPACITY.md").read_text("utf-8")
    assert device_table() in shipped
