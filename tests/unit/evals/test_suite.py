"""The standard suite: what it holds, and that no part of it goes missing in silence."""

from __future__ import annotations

import pytest

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.evals.dataset import EvalFile
from guardrail_plugin.evals.published import PUBLISHED, SETS, SOURCES
from guardrail_plugin.evals.suite import load_suite, read_suite, with_unique_names


def test_the_shipped_suite_has_a_name_of_its_own_for_every_entry(tmp_path):
    names = [entry.file(tmp_path).name for entry in read_suite().files]

    assert len(names) == len(set(names)) >= 30


def test_tool_outputs_are_judged_as_such(tmp_path):
    rails = {entry.file(tmp_path).name: entry.rail for entry in read_suite().files}

    assert rails["bipia_held_out"] == "tool_output"
    assert rails["cyberseceval_prompt_injection"] == "input"


def test_published_figures_are_of_sets_in_the_suite(tmp_path):
    names = {entry.file(tmp_path).name for entry in read_suite().files}

    assert set(SETS) <= names
    assert all(one.source in SOURCES and len(one.f1) == len(SETS) for one in PUBLISHED)


def test_a_folder_that_lacks_files_is_refused(tmp_path):
    for entry in read_suite().files[1:]:
        (tmp_path / entry.path).parent.mkdir(exist_ok=True)
        (tmp_path / entry.path).touch()

    with pytest.raises(ConfigError, match=r"lacks files of the suite: mixed/openai_moderation\.jsonl$"):
        load_suite(tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("files = [", "not valid TOML"),
        ("[[files]]\npath = 'a'\nrial = 'input'", "rial"),
        ("[[files]]\npath = 'a'\nheld_out = 2", "held_out"),
        ("[[files]]\npath = 'a'\nrail = 'inptu'", "rail"),
    ],
)
def test_a_broken_suite_file_is_a_config_error(tmp_path, text, problem):
    path = tmp_path / "suites.toml"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(ConfigError, match=problem):
        read_suite(path)


def test_files_of_one_name_are_told_apart_by_their_folder(tmp_path):
    files = [EvalFile(tmp_path / "a" / "x.jsonl"), EvalFile(tmp_path / "b" / "x.jsonl"), EvalFile(tmp_path / "y.jsonl")]

    assert [file.name for file in with_unique_names(files)] == ["a-x", "b-x", "y"]


def test_one_file_on_two_rails_is_told_apart_by_the_rail(tmp_path):
    path = tmp_path / "a" / "x.jsonl"
    files = [EvalFile(path), EvalFile(path, rail="document")]

    assert [file.name for file in with_unique_names(files)] == ["a-x-auto", "a-x-document"]


def test_files_in_folders_of_one_name_are_told_apart_by_the_folders_above(tmp_path):
    files = [EvalFile(tmp_path / who / "june" / "x.jsonl") for who in ("acme", "beta")]
    files.append(EvalFile(tmp_path / "y.jsonl"))

    assert [file.name for file in with_unique_names(files)] == ["acme-june-x-auto", "beta-june-x-auto", "y"]


def test_a_file_named_twice_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="named twice"):
        with_unique_names([EvalFile(tmp_path / "x.jsonl")] * 2)
