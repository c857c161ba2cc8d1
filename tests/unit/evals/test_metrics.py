"""Figures: scikit-learn's values, honest absences, and a bootstrap that agrees with scikit-learn on every resample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from guardrail_plugin.evals.bootstrap import ECE_BINS, Prepared, equal_mass_bins, interval, resamples, statistics
from guardrail_plugin.evals.metrics import METRICS, Figure, Sample, measure
from guardrail_plugin.evals.score import Score

labelled = st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=2, max_size=40).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)


def noisy(n, *, seed=0, share=0.4):
    rng = np.random.default_rng(seed)
    harmful = rng.random(n) < share
    risk = np.round(1 / (1 + np.exp(-(rng.normal(size=n) * 1.5 + np.where(harmful, 1.5, -1.5)))), 3)
    return list(zip(harmful.tolist(), risk.tolist(), strict=True))


def test_every_metric_has_a_figure(make_scores):
    assert measure(make_scores(noisy(50)), count=50).keys() == METRICS.keys()


def test_a_perfect_guardian(make_scores):
    figures = measure(make_scores([(True, 0.9)] * 100 + [(False, 0.1)] * 100), count=200)

    for name in ("f1", "precision", "recall", "auprc", "auroc", "recall_at_fpr_1", "recall_at_fpr_5"):
        assert figures[name].value == pytest.approx(1.0), name
    assert figures["fpr"].value == 0.0
    assert figures["fpr"].high == pytest.approx(0.037, abs=1e-3)  # Wilson: 0 of 100 is not 0 for sure
    assert figures["ece"].value == pytest.approx(0.1)


def test_values_are_scikit_learns(make_scores):
    rows = noisy(300)
    harmful, risk = (np.array(part) for part in zip(*rows, strict=True))
    figures = measure(make_scores(rows), count=50)

    assert figures["f1"].value == pytest.approx(sk.f1_score(harmful, risk >= 0.5))
    assert figures["precision"].value == pytest.approx(sk.precision_score(harmful, risk >= 0.5))
    assert figures["recall"].value == pytest.approx(sk.recall_score(harmful, risk >= 0.5))
    assert figures["auprc"].value == pytest.approx(sk.average_precision_score(harmful, risk))
    assert figures["auroc"].value == pytest.approx(sk.roc_auc_score(harmful, risk))


def test_harmful_rows_alone_have_a_recall_and_nothing_that_needs_harmless_ones(make_scores):
    figures = measure(make_scores([(True, 0.9)] * 9 + [(True, 0.1)]))

    assert figures["recall"].value == 0.9
    assert 0.55 < figures["recall"].low < 0.9 < figures["recall"].high < 1
    absent = {name for name, figure in figures.items() if figure.value is None}
    assert absent == METRICS.keys() - {"recall", "seconds_per_text"}


def test_harmless_rows_alone_have_a_false_positive_rate_only(make_scores):
    figures = measure(make_scores([(False, 0.9)] + [(False, 0.1)] * 9))

    assert figures["fpr"].value == 0.1
    assert figures["recall"] == figures["f1"] == figures["auprc"] == Figure(None)


def test_precision_does_not_exist_where_nothing_is_flagged(make_scores):
    figures = measure(make_scores([(True, 0.2), (False, 0.1)] * 10), count=20)

    assert figures["precision"].value is None
    assert figures["f1"].value == 0.0


@pytest.mark.parametrize(("harmless", "at_1", "at_5"), [(19, False, False), (20, False, True), (100, True, True)])
def test_recall_at_a_rate_needs_enough_harmless_rows_for_that_rate(make_scores, harmless, at_1, at_5):
    figures = measure(make_scores([(True, 0.9)] * 10 + [(False, 0.1)] * harmless), count=20)

    assert (figures["recall_at_fpr_1"].value is not None, figures["recall_at_fpr_5"].value is not None) == (at_1, at_5)


def test_hazard_accuracy_counts_harmful_rows_whose_source_states_one():
    def one(expected, hazard, label=True):
        return Score("x", label, 0.9, True, hazard=hazard, expected=expected)

    scores = [one("S1", "S1"), one("S1", "S2"), one("S9", "S9"), one(None, "S1"), one(None, "S2", label=False)]

    figure = measure(scores, count=20)["hazard_accuracy"]

    assert (figure.value, figure.n) == (pytest.approx(2 / 3), 3)


def test_a_guardian_that_names_no_hazard_has_no_hazard_accuracy():
    scores = [Score("a", True, 0.9, True, expected="S1"), Score("b", False, 0.1, False)]

    assert measure(scores, count=20)["hazard_accuracy"] == Figure(None)


def test_intervals_are_seeded_and_hold_the_value(make_scores):
    scores = make_scores(noisy(400))
    first, second, other = (measure(scores, count=300, seed=seed) for seed in (1, 1, 2))

    assert first == second
    assert first["auprc"] != other["auprc"]
    for name in ("f1", "precision", "auprc", "auroc", "recall_at_fpr_1", "recall_at_fpr_5"):
        assert first[name].low < first[name].value < first[name].high, name


def test_more_rows_give_a_narrower_interval(make_scores):
    narrow, wide = (measure(make_scores(noisy(n)), count=200)["f1"] for n in (2000, 100))

    assert narrow.high - narrow.low < (wide.high - wide.low) / 2


@settings(max_examples=50, deadline=None)
@given(rows=labelled, seed=st.integers(0, 100))
def test_every_resample_is_scored_as_scikit_learn_would(rows, seed):
    harmful = np.array([label for label, _ in rows])
    risk = np.array([step / 20 for _, step in rows])
    prepared = Prepared.of(harmful=harmful, predicted=risk >= 0.5, risk=risk)
    [weights] = resamples(harmful.astype(np.int64), count=3, seed=seed)
    found = statistics(prepared, weights)

    for i, drawn in enumerate(weights):
        assert found["auprc"][i] == pytest.approx(sk.average_precision_score(harmful, risk, sample_weight=drawn))
        assert found["auroc"][i] == pytest.approx(sk.roc_auc_score(harmful, risk, sample_weight=drawn))
        assert found["f1"][i] == pytest.approx(
            sk.f1_score(harmful, risk >= 0.5, sample_weight=drawn, zero_division=0.0)
        )
        fpr, recall, _ = sk.roc_curve(harmful, risk, sample_weight=drawn, drop_intermediate=False)
        assert found["recall_at_fpr_5"][i] == pytest.approx(recall[fpr <= 0.05].max())


def test_resamples_keep_the_size_of_every_stratum_also_over_several_blocks(monkeypatch):
    monkeypatch.setattr("guardrail_plugin.evals.bootstrap._CELLS", 20)
    strata = np.array([0, 1, 1, 2, 2, 2, 0, 0])

    blocks = list(resamples(strata, count=7, seed=0))

    assert [len(block) for block in blocks] == [2, 2, 2, 1]
    for block in blocks:
        assert [block[:, strata == stratum].sum(1).tolist() for stratum in range(3)] == [
            [size] * len(block) for size in (3, 2, 3)
        ]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_bins_never_split_equal_risks_and_rise_with_risk(steps):
    risk = np.array(steps) / 5
    bins = equal_mass_bins(risk)

    assert all(len(set(bins[risk == value])) == 1 for value in risk)
    assert (np.diff(bins[np.argsort(risk, kind="stable")]) >= 0).all()
    assert bins.max() < ECE_BINS


def test_the_calibration_error_of_a_known_case(make_scores):
    # Two risks, so two bins: 0.2 with half harmful (gap 0.3) and 0.8 with all harmful (gap 0.2).
    scores = make_scores([(True, 0.2), (False, 0.2)] * 10 + [(True, 0.8)] * 20)

    assert measure(scores, count=20)["ece"].value == pytest.approx(0.25)


def test_an_interval_of_nothing_defined_is_none():
    assert interval(np.array([np.nan, np.nan])) is None


def test_strata_of_a_total_are_label_and_file(make_scores):
    scores = make_scores([(True, 0.9), (False, 0.1), (True, 0.8)])

    assert len(set(Sample.of(scores, groups=[0, 0, 1]).strata.tolist())) == 3
