"""Pace, demand, shares of the queue, caution: pure records with injected time."""

from __future__ import annotations

import pytest

from guardrail_plugin.pool.forecast import DEMAND_S, MOST_TENANTS, Caution, Demand, Pace, share_of_queue


def test_the_wait_is_unknown_until_it_has_been_measured() -> None:
    pace = Pace()
    assert pace.wait_s(1000, slots=1) is None
    pace.add(100, 1.0)
    assert pace.wait_s(1000, slots=1) == pytest.approx(10.0)
    assert pace.wait_s(1000, slots=4) == pytest.approx(2.5)
    for _ in range(60):
        pace.add(100, 0.1)
    assert pace.wait_s(1000, slots=1) == pytest.approx(1.0, rel=0.05), "the past fades"


def test_caution_grows_with_answers_that_come_late_and_fades() -> None:
    caution = Caution()
    first = caution.factor
    assert first > 1.0, "it begins with a margin"
    for _ in range(5):
        caution.saw(estimated_s=1.0, took_s=2.0, in_time=True)
    assert caution.factor == pytest.approx(first + 0.5)
    caution.saw(estimated_s=1.0, took_s=1.0, in_time=False)
    assert caution.factor == pytest.approx(first + 0.6), (
        "an answer that never came counts as late, whatever was estimated"
    )
    for _ in range(200):
        caution.saw(estimated_s=1.0, took_s=10.0, in_time=True)
    assert caution.factor == 4.0
    for _ in range(200_000):
        caution.saw(estimated_s=1.0, took_s=0.5, in_time=True)
    assert caution.factor == 1.0


def test_time_that_decodes_take_slows_the_pace_of_verdicts() -> None:
    pace = Pace()
    assert pace.tokens_per_s is None
    for _ in range(50):
        pace.lost(1.0)
        pace.add(100, 1.0)
    assert pace.tokens_per_s == pytest.approx(50)


def test_a_pace_measured_too_slow_is_mended_by_small_batches() -> None:
    pace = Pace()
    pace.add_small(10, 1.0)
    assert pace.tokens_per_s is None, "a small batch alone is no measure"
    pace.add(100, 50.0)  # the first one compiled something
    pace.add_small(1, 50.0)
    assert pace.tokens_per_s == pytest.approx(2.0), "a small one that is slower says nothing"
    pace.add_small(10, 0.5)
    assert pace.tokens_per_s == pytest.approx(20.0)
    for _ in range(1000):
        pace.lost(1.0)
        pace.add_small(10, 0.5)
    assert pace.tokens_per_s == pytest.approx(20.0), "steps between small batches do not add up"


def test_a_steady_demand_is_known_soon_and_fades() -> None:
    demand = Demand()
    for tenth in range(101):
        demand.note("steady", 10, tenth / 10)
        if tenth >= 20:
            assert demand.rates(tenth / 10)["steady"] == pytest.approx(100.0, rel=0.15), (
                "also before DEMAND_S have passed"
            )
    assert demand.rates(10.0 + DEMAND_S)["steady"] == pytest.approx(50.0, rel=0.4)
    assert "steady" not in demand.rates(10.0 + 20 * DEMAND_S)
    demand.note("steady", 10, 1000.0)
    assert demand.rates(1010.0)["steady"] < 2.0, "who was away for long begins again"


def test_the_share_of_the_queue_counts_what_others_have_and_will_bring_but_no_more_than_ones_own() -> None:
    def share(own: float, waiting: dict[str, float], demand: dict[str, float]) -> float:
        return share_of_queue(own, waiting, demand, tokens_per_s=100.0)

    assert share(1000, {}, {}) == 1000
    assert share(1000, {"few": 50}, {}) == 1050
    assert share(1000, {"crowd": 9000}, {}) == 2000, "equal shares"
    assert share(1000, {}, {"light": 10.0}) == pytest.approx(1000 / 0.9, rel=0.01), "a tenth of the speed is another's"
    assert share(1000, {}, {"greedy": 1e6}) == 2000


def test_the_demand_of_the_latest_tenants_is_remembered() -> None:
    demand = Demand()
    for number in range(2 * MOST_TENANTS):
        demand.note(str(number), 10, 0.0)
    assert set(demand.rates(0.0)) == {str(number) for number in range(MOST_TENANTS, 2 * MOST_TENANTS)}
