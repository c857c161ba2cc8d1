"""Two runs side by side: paired by id, with the interval of the difference."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.evals.compare import changes, compare_runs
from guardrail_plugin.evals.dataset import EvalFile
from guardrail_plugin.evals.run import Options, evaluate
from guardrail_plugin.testing import ScriptedGuardian, verdict

FAST = Options(resamples=100, quiet=True)


def guardian(name, *, noise):
    """A guardian that knows the label, which the text tells, up to some noise of its own."""

    def judge(check):
        label, number = check.text.split()
        rng = np.random.default_rng(int(number))
        shift = float(rng.normal()) * noise
        return verdict(risk=min(1.0, max(0.0, (0.7 if label == "bad" else 0.3) + shift)))

    return ScriptedGuardian(judge, guardian_id=name)


@pytest.fixture
def run(write_jsonl, tmp_path, monkeypatch):
    # Comparing needs results and scores; drawing the pages of every run would be most of the time.
    def write_results(result, scored, *, folder, show_text, responses):
        result.write(folder)

    monkeypatch.setattr("guardrail_plugin.evals.run.write_reports", write_results)

    def go(name, *, noise, sets=("one", "two"), rows=200, options=FAST):
        files = []
        for stem in sets:
            texts = [("bad" if i % 2 else "good", i + len(stem) * ord(stem[0])) for i in range(rows)]
            lines = [{"id": f"{stem}-{i}", "text": f"{word} {i}", "harmful": word == "bad"} for word, i in texts]
            files.append(EvalFile(write_jsonl(f"{stem}.jsonl", lines)))
        evaluate(guardian(name, noise=noise), files, out=tmp_path / name, options=options)
        return tmp_path / name

    return go


def test_a_run_compared_with_itself_differs_by_nothing(run):
    folder = run("a", noise=0.3)

    comparison = compare_runs(folder, folder, count=100)

    for change in (change for one in comparison.sets for change in one.changes):
        assert (change.difference.value, change.difference.low, change.difference.high) == (0, 0, 0)
        assert change.better is None


def test_a_better_guardian_is_told_so_with_an_interval(run, tmp_path):
    comparison = compare_runs(run("noisy", noise=0.5), run("sharp", noise=0.05), count=200, out=tmp_path / "cmp")

    found = {change.metric: change for change in comparison.sets[0].changes}
    assert found["f1"].better is True
    assert found["fpr"].better is True  # lower is better
    assert found["fpr"].difference.high < 0 < found["auroc"].difference.low
    page = (tmp_path / "cmp" / "compare.html").read_text(encoding="utf-8")
    assert "noisy" in page
    assert "sharp" in page
    assert "http" not in page
    assert "| one | f1 |" in (tmp_path / "cmp" / "compare.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "cmp" / "compare.json").read_text(encoding="utf-8"))["a"] == "noisy"


def test_pairing_makes_the_interval_narrower_than_two_unpaired_ones(make_scores):
    rng = np.random.default_rng(0)
    a = make_scores([(bool(i % 2), float(np.clip(rng.normal(0.5 + 0.15 * (i % 2), 0.2), 0, 1))) for i in range(600)])
    b = [replace(one, risk=min(1.0, one.risk + 0.02), harmful=one.risk + 0.02 >= 0.5) for one in a]

    [recall] = [change for change in changes(a, b, count=300) if change.metric == "recall"]

    paired = recall.difference.high - recall.difference.low
    assert paired < (recall.a.high - recall.a.low) / 2
    assert recall.difference.low <= recall.difference.value <= recall.difference.high


def test_a_set_of_one_label_compares_what_it_defines(make_scores):
    a = make_scores([(True, 0.4), (True, 0.9)] * 20)
    b = make_scores([(True, 0.9), (True, 0.9)] * 20)

    [change] = changes(a, b, count=100)

    assert change.metric == "recall"
    assert change.difference.value == 0.5
    assert change.better is True


def test_sets_of_one_run_alone_are_named(run):
    comparison = compare_runs(run("a", noise=0.3), run("b", noise=0.3, sets=("two",)), count=100)

    assert [one.name for one in comparison.sets] == ["two"]
    assert (comparison.only_a, comparison.only_b) == (["one"], [])


def test_sets_made_from_other_files_are_refused(run):
    first = run("a", noise=0.3)
    second = run("b", noise=0.3, rows=150)

    with pytest.raises(ConfigError, match="scored different files"):
        compare_runs(first, second)


@pytest.mark.parametrize("rows_left", [200, 150])
def test_scores_of_an_evaluation_that_was_cut_short_are_not_taken_for_those_of_the_results(run, rows_left):
    folder, other = run("a", noise=0.3), run("b", noise=0.3)
    for name in ("one", "two"):  # what another guardian's run into the same folder leaves when it is killed
        for ending in ("jsonl", "meta.json") if rows_left == 200 else ("jsonl",):
            text = (other / "scores" / f"{name}.{ending}").read_text(encoding="utf-8")
            (folder / "scores" / f"{name}.{ending}").write_text(
                "\n".join(text.splitlines()[:rows_left]) + "\n", encoding="utf-8"
            )

    with pytest.raises(ConfigError, match=r"a: the scores of one are not those that results\.json was made of"):
        compare_runs(folder, other, count=100)


def test_runs_without_a_common_set_are_refused(run):
    with pytest.raises(ConfigError, match="no set in common"):
        compare_runs(run("a", noise=0.3, sets=("one",)), run("b", noise=0.3, sets=("two",)))


def test_a_run_that_a_policy_decided_is_refused(run):
    options = Options(resamples=100, quiet=True, policy=Policy(version="strict"))

    with pytest.raises(ConfigError, match="policy 'strict' decided"):
        compare_runs(run("a", noise=0.3), run("b", noise=0.3, options=options))


@pytest.mark.parametrize("content", [None, "{", "[]", '{"guardian": 5}'])
def test_a_folder_that_is_no_run_is_a_config_error(run, tmp_path, content):
    (tmp_path / "odd").mkdir()
    if content is not None:
        (tmp_path / "odd" / "results.json").write_text(content, encoding="utf-8")

    with pytest.raises(ConfigError, match="guardrail evaluate"):
        compare_runs(run("a", noise=0.3), tmp_path / "odd")
