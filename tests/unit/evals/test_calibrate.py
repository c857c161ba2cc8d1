"""Thresholds for one's own traffic: within the limit, with an honest bound, refused where rows cannot support them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import ConfigError, GuardianError
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.evals.calibrate import calibrate, most_false_positives, threshold_for
from guardrail_plugin.evals.dataset import EvalFile
from guardrail_plugin.evals.intervals import upper_bound
from guardrail_plugin.evals.scaling import fit_scaling, log_odds
from guardrail_plugin.guardian.guardian import Guardian
from guardrail_plugin.testing import ScriptedGuardian, verdict

risks = st.lists(st.integers(0, 999).map(lambda i: i / 1000), min_size=30, max_size=200)


def traffic(harmless=400, harmful=60, *, seed=0, **fields):
    rng = np.random.default_rng(seed)
    labels = [False] * harmless + [True] * harmful
    odds = [rng.normal() * 1.5 + (2 if label else -2) for label in labels]
    texts = [f"text {i} risk={1 / (1 + np.exp(-z)):.5f}" for i, z in enumerate(odds)]
    return [{"text": text, "harmful": label} | fields for text, label in zip(texts, labels, strict=True)]


@pytest.fixture
def fit(write_jsonl, reads_risk):
    def go(rows=None, *, rail=None, guardian=reads_risk, **options):
        file = EvalFile(write_jsonl("traffic.jsonl", rows or traffic()), rail=rail)
        return calibrate(guardian, [file], quiet=True, **({"max_fpr": 0.02} | options))

    return go


def test_the_threshold_keeps_the_rate_and_the_policy_carries_it(fit):
    found = fit()
    [rail] = found.rails

    assert rail.harmless == 400
    assert rail.false_positives <= 8
    assert rail.fpr <= 0.02 < rail.fpr_bound
    assert rail.fpr_bound == upper_bound(rail.false_positives, 400)
    assert rail.recall_low < rail.recall < rail.recall_high
    policy = Policy.from_toml(found.toml())
    assert policy.rails["input"].threshold == rail.threshold
    assert policy.version == found.version


def test_a_certified_threshold_keeps_the_bound(fit):
    plain, certified = fit(), fit(certify=True)

    assert certified.rails[0].fpr_bound <= 0.02
    assert certified.rails[0].threshold > plain.rails[0].threshold


def test_the_policy_says_in_words_what_it_rests_on(fit):
    text = fit().toml()

    assert "of 400 harmless rows flagged" in text
    assert "with 95 % confidence" in text
    assert "guardian: reads-risk" in text
    assert "temperature" in text


def test_every_rail_gets_its_own_threshold(write_jsonl, reads_risk):
    queries = EvalFile(write_jsonl("q.jsonl", traffic(seed=1)))
    outputs = EvalFile(write_jsonl("t.jsonl", traffic(seed=2)), rail="tool_output")

    policy = Policy.from_toml(calibrate(reads_risk, [queries, outputs], max_fpr=0.02, quiet=True).toml())

    assert set(policy.rails) == {"input", "tool_output"}


@pytest.mark.parametrize(("harmless", "max_fpr", "enough"), [(299, 0.01, False), (300, 0.01, True), (29, 0.1, False)])
def test_too_few_harmless_rows_are_refused_before_any_is_scored(fit, reads_risk, harmless, max_fpr, enough):
    rows = traffic(harmless=harmless)
    if enough:
        assert fit(rows, max_fpr=max_fpr).rails[0].fpr <= max_fpr
        return

    with pytest.raises(ConfigError, match=f"{harmless} distinct harmless rows on the input rail cannot support"):
        fit(rows, max_fpr=max_fpr)
    assert reads_risk.checks == []


def test_a_text_that_occurs_again_supports_nothing(fit):
    rows = traffic(harmless=100)

    with pytest.raises(ConfigError, match="100 distinct harmless rows"):
        fit([*rows, *rows, *rows], max_fpr=0.02)
    assert fit([*rows, *rows], max_fpr=0.05).rails[0].duplicates == 160


@pytest.mark.parametrize("last", [True, False])
def test_a_text_with_both_labels_is_refused_by_file_and_line(fit, reads_risk, last):
    rows = traffic(harmless=200)
    rows += [row | {"harmful": True} for row in rows[:7]] if last else []
    rows = rows if last else [*({"text": row["text"], "harmful": True} for row in rows), *rows]

    with pytest.raises(ConfigError, match="labelled both harmful and harmless") as caught:
        fit(rows, max_fpr=0.02)

    assert ("traffic.jsonl, line 1 and " in str(caught.value)) is True
    assert ("; and 2 more" in str(caught.value)) is last
    assert "text 0" not in str(caught.value)
    assert reads_risk.checks == []


def test_rows_without_a_verdict_count_as_flagged(fit):
    def judge(check):
        return GuardianError("no") if check.text.startswith("text 7 ") else verdict(risk=0.2)

    [rail] = fit(guardian=ScriptedGuardian(judge), max_fpr=0.02).rails

    assert (rail.failed, rail.false_positives) == (1, 1)


def test_rows_read_in_part_only_count_as_flagged_since_policies_block_them(fit):
    def judge(check):
        found = verdict(risk=float(check.text.partition("risk=")[2]))
        return replace(found, truncated=check.text.startswith(("text 7 ", "text 450 ")))

    found = fit(guardian=ScriptedGuardian(judge), max_fpr=0.02)

    [rail] = found.rails
    assert rail.truncated == 2
    assert rail.false_positives <= 8
    policy = Policy.from_toml(found.toml())
    rows = [(judge(Check(row["text"])), row["harmful"]) for row in traffic()]
    blocked = [label for one, label in rows if policy.action(one) == "block"]
    assert (blocked.count(False), blocked.count(True)) == (rail.false_positives, rail.hits)
    assert "2 rows were read in part only" in found.toml()


def test_a_guardian_that_flags_too_much_whatever_the_threshold_is_an_error(fit):
    with pytest.raises(ConfigError, match="gives risk 1 to more than 8 of 400 harmless rows"):
        fit(guardian=ScriptedGuardian(lambda _: verdict(risk=1.0)))


def test_labels_the_wrong_way_round_are_noticed(fit):
    rows = [row | {"harmful": not row["harmful"]} for row in traffic(harmless=200, harmful=200)]

    with pytest.raises(ConfigError, match="the right way round"):
        fit(rows)


def test_without_harmful_rows_recall_is_unknown_and_so_it_says(fit):
    found = fit(traffic(harmful=0))

    assert found.rails[0].recall is None
    assert found.rails[0].scaling is None
    assert "no harmful rows" in found.toml()


@pytest.mark.parametrize("max_fpr", [0.0, 1.0, -0.1, float("nan")])
def test_a_limit_that_is_no_share_is_refused(fit, max_fpr):
    with pytest.raises(ConfigError, match="max_fpr"):
        fit(max_fpr=max_fpr)


def test_no_files_is_a_config_error(reads_risk):
    with pytest.raises(ConfigError, match="--data"):
        calibrate(reads_risk, [], max_fpr=0.01)


@settings(max_examples=100, deadline=None)
@given(harmless=risks, harmful=risks, max_fpr=st.sampled_from([0.1, 0.2, 0.34]), certify=st.booleans())
def test_the_threshold_is_the_lowest_that_keeps_the_limit(harmless, harmful, max_fpr, certify):
    good, bad = np.array(harmless), np.array(harmful)
    everything = np.concatenate([good, bad])
    threshold = threshold_for(good, everything, max_fpr=max_fpr, certify=certify)

    alarms = int((good >= threshold).sum())
    assert alarms <= max_fpr * len(good)
    if certify and alarms:
        assert upper_bound(alarms, len(good)) <= max_fpr
    below = everything[everything < threshold]
    if len(below):  # the next lower risk would flag one too many
        allowed = most_false_positives(len(good), max_fpr=max_fpr, certify=certify)
        assert int((good >= below.max()).sum()) > allowed


@pytest.mark.parametrize(("n", "max_fpr", "allowed"), [(300, 0.01, 3), (299, 0.01, 2), (1000, 0.001, 1), (3, 0.99, 2)])
def test_the_number_of_false_positives_that_a_rate_allows(n, max_fpr, allowed):
    assert most_false_positives(n, max_fpr=max_fpr, certify=False) == allowed


def test_temperature_and_bias_of_a_known_distortion_are_found():
    rng = np.random.default_rng(0)
    true_odds = rng.normal(size=4000) * 2
    harmful = rng.random(4000) < 1 / (1 + np.exp(-true_odds))
    risk = 1 / (1 + np.exp(-(true_odds - 0.5) * 3))  # three times too sure, and shifted

    found = fit_scaling(risk, harmful)

    assert found is not None
    assert found.temperature == pytest.approx(3, rel=0.15)
    assert found.bias == pytest.approx(0.5, abs=0.15)
    assert found.ece_after < found.ece_before / 2


def test_a_handful_of_rows_fits_no_temperature():
    assert fit_scaling(np.array([0.1] * 19 + [0.9] * 40), np.array([False] * 19 + [True] * 40)) is None


def test_log_odds_are_finite_at_the_ends():
    assert np.isfinite(log_odds(np.array([0.0, 0.5, 1.0]))).all()


def test_a_max_ensemble_is_calibrated_on_what_its_policy_acts_on(write_jsonl):
    def member(name, threshold, harmful, harmless):
        return ScriptedGuardian(
            lambda check: verdict(risk=harmful if "bad" in check.text else harmless, threshold=threshold),
            guardian_id=name,
        )

    both = Guardian.ensemble(member("a", 0.7, 0.75, 0.65), member("b", 0.05, 0.01, 0.045))
    harmless = [{"text": f"fine {i}", "harmful": False} for i in range(300)]
    harmful = [{"text": f"bad {i}", "harmful": True} for i in range(60)]

    found = calibrate(both, [EvalFile(write_jsonl("t.jsonl", harmless + harmful))], max_fpr=0.02, quiet=True)

    policy = Policy.from_toml(found.toml())
    verdicts = both.check_many([Check(row["text"]) for row in harmless])
    assert sum(policy.action(one) == "block" for one in verdicts) == found.rails[0].false_positives == 0
    assert found.rails[0].hits == 60


def test_verdicts_that_lack_a_member_count_as_flagged_since_policies_block_them(write_jsonl):
    judge = ScriptedGuardian(
        lambda check: replace(verdict(risk=0.1), incomplete="canary 7 " in check.text), guardian_id="one"
    )
    rows = [{"text": f"canary {i} of many", "harmful": i > 400} for i in range(420)]

    rail = calibrate(judge, [EvalFile(write_jsonl("t.jsonl", rows))], max_fpr=0.01, quiet=True).rails[0]

    assert (rail.failed, rail.false_positives, rail.before) == (1, 1, (1, 0))
