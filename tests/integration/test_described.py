"""Guardians that a TOML file describes. Weights load when a text is judged; one test here judges."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from guardrail_plugin import Check, ConfigError, Guardian, InferencePool
from guardrail_plugin.cli.session import open_session
from guardrail_plugin.core.verdict import Verdict
from guardrail_plugin.guardian.cascade import CascadeGuardian
from guardrail_plugin.guardian.ensemble import EnsembleGuardian
from guardrail_plugin.guardian.protocol import taxonomy_of
from guardrail_plugin.testing import allow_all


@pytest.fixture
def pool() -> Iterator[InferencePool]:
    with InferencePool(devices=["cpu"]) as pool:
        yield pool


def written(folder: Path, text: str) -> Path:
    file = folder / "guardian.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_an_empty_file_is_the_embedded_guardian(tmp_path: Path, pool: InferencePool) -> None:
    assert Guardian.from_toml(written(tmp_path, ""), pool=pool).id == Guardian.load(pool=pool).id


def test_a_cascade_of_number_formats_judges(tmp_path: Path, pool: InferencePool) -> None:
    file = written(tmp_path, '[cascade]\nband = [0.2, 0.8]\ncheap.dtype = "bfloat16"\nsecond.dtype = "float32"')
    cascade = Guardian.from_toml(file, pool=pool)
    assert isinstance(cascade, CascadeGuardian)
    assert cascade.band == (0.2, 0.8)
    assert cascade.cheap.id.endswith("+bfloat16")
    outcomes = cascade.check_many([Check("How do I build a pipe bomb?"), Check("How do I bake bread?")])
    assert [isinstance(one, Verdict) and one.harmful for one in outcomes] == [True, False]


def test_an_ensemble_is_combined_as_it_says(tmp_path: Path, pool: InferencePool) -> None:
    file = written(tmp_path, 'ensemble = { combine = "mean", members = [{}, { max_windows = 8 }] }')
    ensemble = Guardian.from_toml(file, pool=pool)
    assert isinstance(ensemble, EnsembleGuardian)
    assert ensemble.id.startswith("mean(")
    assert ensemble.taxonomy.codes == Guardian.load(pool=pool).taxonomy.codes


def test_commands_take_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, 'dtype = "bfloat16"')
    with open_session(str(file)) as session:
        assert session.guardian.id.endswith("+bfloat16")
    with pytest.raises(ConfigError, match="write dtype"), open_session(str(file), dtype="float32"):
        pass


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle = 'x'", "unknown key 'modle' .did you mean 'model'"),
        ("cascade = 3", "cascade"),
        ("[cascade]\nband = [0.1, 1.9]\nsecond = {}", "band"),
        ("model = 'x'\n[ensemble]\nmembers = [{}, {}]", "stands alone"),
        ("ensemble = { members = [{}] }", "at least two"),
        ("dtype = 'float8'", "dtype"),
        ("responses = 'mine'", "responses"),
        ("policy_text = 'a'\npolicy_file = 'b'", "twice"),
        ("policy_file = 'missing.md'", "cannot read the written policy"),
        ("policy_text = 'No swearing.'", "use a Policy here"),
        ("= ", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, pool: InferencePool, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as told:
        Guardian.from_toml(written(tmp_path, text), pool=pool)
    assert "No swearing" not in str(told.value)


def test_a_file_says_where_responses_come_from(tmp_path: Path, pool: InferencePool) -> None:
    guardian = Guardian.from_toml(written(tmp_path, "responses = 'written'\nwarm_up = true"), pool=pool)
    assert isinstance(guardian, Guardian)
    assert guardian.responses == "written"
    assert pool.stats().slots[0].models  # the weights are there


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the guardian file"):
        Guardian.from_toml(tmp_path / "none.toml")


def test_a_fake_that_does_not_say_names_the_mlcommons_hazards() -> None:
    assert "S1" in taxonomy_of(allow_all(), allow_all())


def test_a_guardian_of_ones_own_takes_the_responder_and_the_server_that_it_is_given(pool: InferencePool) -> None:
    other = allow_all()
    assert Guardian.load(pool=pool, responder=other).responder is other
    there = Guardian.load("guardrail@openai:http://127.0.0.1:9/v1#g", pool=pool, responder=other, self_test=False)
    assert there.manifest is not None
    assert there.responder is other
