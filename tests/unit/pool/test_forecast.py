"""Pace, demand, shares of the queue, caution: pure records with injected time."""

from __future__ import annotations

import math

import pytest

from guardrail_plugin.pool.forecast import (
    DEMAND_S,
    MOST_TENANTS,
    Caution,
    Demand,
    Pace,
    retry_after_s,
    share_of_queue,
)


def full(pace: Pace, tokens: int, seconds: float, *, model: str = "m", times: int = 1) -> None:
    for _ in range(times):
        pace.add(model, tokens, seconds, loaded=True)


def test_the_pace_of_a_model_is_unknown_until_it_has_been_measured_and_the_past_fades() -> None:
    pace = Pace()
    assert (pace.token_s("m"), pace.tokens_per_s) == (None, None)
    full(pace, 100, 1.0)
    assert pace.token_s("m") == pytest.approx(0.01)
    full(pace, 100, 0.1, times=60)
    assert pace.token_s("m") == pytest.approx(0.001, rel=0.05)


def test_a_slow_model_does_not_slow_the_others() -> None:
    pace = Pace()
    full(pace, 100, 0.1, model="fast", times=3)
    full(pace, 100, 10.0, model="slow", times=3)
    assert pace.token_s("fast") == pytest.approx(0.001)
    assert pace.token_s("slow") == pytest.approx(0.1)
    assert pace.tokens_per_s == pytest.approx(10.0), "of the one that ran last"


def test_time_that_decodes_take_slows_the_pace_of_verdicts() -> None:
    pace = Pace()
    for _ in range(50):
        pace.lost(1.0)
        full(pace, 100, 1.0)
    assert pace.tokens_per_s == pytest.approx(50)
    for _ in range(1000):
        pace.lost(1.0)
    full(pace, 100, 1.0, times=60)
    assert pace.tokens_per_s == pytest.approx(100, rel=0.05), "steps beside which no verdict could run do not add up"


def test_a_pace_measured_too_slow_is_mended_by_small_batches() -> None:
    pace = Pace()
    pace.add("m", 10, 1.0, loaded=False)
    assert pace.tokens_per_s is None, "a small batch alone is no measure"
    full(pace, 100, 50.0)  # the first one compiled something
    pace.add("m", 1, 50.0, loaded=False)
    assert pace.tokens_per_s == pytest.approx(2.0), "a small one that is slower says nothing"
    pace.add("m", 10, 0.5, loaded=False)
    assert pace.tokens_per_s == pytest.approx(20.0)


@pytest.mark.parametrize(("wait_s", "after_s"), [(None, 1.0), (0.0, 0.05), (2.0, 2.0), (1e6, 60.0)])
def test_when_to_try_again(wait_s: float | None, after_s: float) -> None:
    assert retry_after_s(wait_s) == after_s


def saw(caution: Caution, *, took_s: float, times: int, now: float = 0.0, allowed_s: float = 10.0) -> float:
    for _ in range(times):
        caution.saw(estimated_s=1.0, took_s=took_s, allowed_s=allowed_s, now=now)
    return caution.factor(now)


def test_caution_grows_with_answers_that_come_late_and_fades() -> None:
    caution = Caution()
    first = caution.factor(0.0)
    assert first > 1.0, "it begins with a margin"
    assert saw(caution, took_s=5.0, times=5) == pytest.approx(first + 0.5)
    assert saw(caution, took_s=math.inf, times=1) == pytest.approx(first + 0.6), "one that never came counts as late"
    assert saw(caution, took_s=100.0, times=200) == 4.0
    assert caution.factor(600.0) == pytest.approx(first, abs=1e-3), "what it learnt fades with time"
    assert saw(caution, took_s=0.5, times=200_000, now=600.0) == 1.0


def test_a_difference_that_is_small_beside_the_time_allowed_teaches_no_caution() -> None:
    caution = Caution()
    first = caution.factor(0.0)
    assert saw(caution, took_s=3.0, times=1000, allowed_s=1000.0) <= first


def test_a_steady_demand_is_known_soon_and_fades() -> None:
    demand, key = Demand(), ("steady", "m")
    for tenth in range(101):
        demand.note(*key, 10, tenth / 10)
        if tenth >= 20:
            assert demand.rates(tenth / 10)[key] == pytest.approx(100.0, rel=0.15), "also before DEMAND_S have passed"
    assert demand.rates(10.0 + DEMAND_S)[key] == pytest.approx(50.0, rel=0.4)
    demand.note("other", "m", 10, 1000.0)
    assert set(demand.rates(1001.0)) == {("other", "m")}, "who was away for long is forgotten"


def test_the_demand_of_the_latest_tenants_is_remembered() -> None:
    demand = Demand()
    for number in range(2 * MOST_TENANTS):
        demand.note(str(number), "m", 10, 0.0)
    assert set(demand.rates(0.0)) == {(str(number), "m") for number in range(MOST_TENANTS, 2 * MOST_TENANTS)}


def test_the_share_of_the_queue_counts_what_others_have_and_will_bring_but_no_more_than_ones_own() -> None:
    def share(waiting: dict[str, float], demand: dict[str, float]) -> float:
        return share_of_queue(10.0, waiting, demand, slots=2)

    assert share({}, {}) == 10.0
    assert share({"few": 0.5}, {}) == 10.5
    assert share({"crowd": 90.0}, {}) == 20.0, "equal shares"
    assert share({}, {"light": 0.2}) == pytest.approx(10 / 0.9, rel=0.01), "a tenth of two slots is another's"
    assert share({}, {"greedy": 1e6}) == 20.0
