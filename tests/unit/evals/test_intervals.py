"""Intervals of proportions against scipy's exact distributions and known values."""

from __future__ import annotations

import pytest
from scipy.stats import beta, binomtest

from guardrail_plugin.evals.intervals import upper_bound, wilson


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (0, 300), (1, 1), (3, 300), (100, 100), (137, 1031), (2058, 2344)])
def test_wilson_is_scipys(hits, n):
    expected = binomtest(hits, n).proportion_ci(method="wilson")

    assert wilson(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (0, 300), (1, 2), (3, 300), (20, 3000), (500, 20_000), (299, 300)])
def test_the_upper_bound_is_clopper_and_pearsons(hits, n):
    assert upper_bound(hits, n) == pytest.approx(beta.ppf(0.95, hits + 1, n - hits), abs=1e-10)


def test_the_bound_of_all_is_one():
    assert upper_bound(5, 5) == 1.0


@pytest.mark.parametrize("max_fpr", [0.3, 0.05, 0.01, 0.001])
def test_three_over_p_rows_without_a_hit_support_p(max_fpr):
    assert upper_bound(0, round(3 / max_fpr)) <= max_fpr


@pytest.mark.parametrize(("hits", "n"), [(1, 0), (-1, 5), (6, 5), (0, 0)])
def test_what_is_no_proportion_is_refused(hits, n):
    with pytest.raises(ValueError, match="no proportion"):
        wilson(hits, n)
    with pytest.raises(ValueError, match="no proportion"):
        upper_bound(hits, n)
