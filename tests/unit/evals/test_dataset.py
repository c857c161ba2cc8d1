"""Files become labelled checks; what breaks the schema is named by file and line, never quoted."""

from __future__ import annotations

from pathlib import Path

import pytest

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.evals.dataset import EvalFile, load
from guardrail_plugin.training.config import Source
from guardrail_plugin.training.rows import Example, held_out, load_source


def row(**fields):
    return {"id": "a", "text": "secret words", "harmful": True} | fields


def test_a_query_is_judged_on_the_input_rail(write_jsonl):
    data = load(EvalFile(write_jsonl("queries.jsonl", [row(category="x", source="somewhere", lang="en")])))

    [found] = data.rows
    assert (data.rail, found.check.rail, found.check.text) == ("input", "input", "secret words")
    assert (found.harmful, found.category, found.source, found.lang) == (True, "x", "somewhere", "en")
    assert "secret" not in repr(data) + repr(found)


def test_a_labelled_response_is_judged_on_the_output_rail_with_its_query(write_jsonl):
    path = write_jsonl("pairs.jsonl", [row(harmful=None, response="an answer", response_harmful=False)])

    [found] = load(EvalFile(path)).rows

    assert (found.check.rail, found.check.text, found.check.query) == ("output", "an answer", "secret words")
    assert found.harmful is False


def test_the_rail_of_a_file_can_be_named(write_jsonl):
    path = write_jsonl("pairs.jsonl", [row(response="an answer", response_harmful=False)])

    [as_query] = load(EvalFile(path, rail="input")).rows
    [as_tool_output] = load(EvalFile(path, rail="tool_output")).rows

    assert (as_query.check.text, as_query.harmful) == ("secret words", True)
    assert (as_tool_output.check.rail, as_tool_output.expected) == ("tool_output", "PI")


def test_rows_without_a_label_are_counted_and_left_out(write_jsonl):
    data = load(EvalFile(write_jsonl("q.jsonl", [row(), row(id="b", harmful=None), row(id="c", harmful=False)])))

    assert [found.id for found in data.rows] == ["a", "c"]
    assert data.skipped == 1


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"source": "catqa", "category": "Fraud/Deception / x"}, "S2"),
        ({"source": "harmbench", "category": "standard / chemical_biological"}, "S9"),
        ({"source": "mine", "category": "S11"}, "S11"),
        ({"source": "mine", "category": "unknown words"}, None),
        ({"source": "mine", "attack": "prompt_injection"}, "PI"),
        ({"source": "catqa", "category": "Fraud/Deception / x", "harmful": False}, None),
    ],
)
def test_the_expected_hazard_is_what_source_and_category_settle(write_jsonl, fields, expected):
    [found] = load(EvalFile(write_jsonl("q.jsonl", [row(**fields)]))).rows

    assert found.expected == expected


def test_rows_without_an_id_get_one_from_their_line(write_jsonl):
    rows = [{"text": "one", "harmful": True}, "", {"text": "two", "harmful": False, "id": 7}]

    data = load(EvalFile(write_jsonl("mine.jsonl", rows)))

    assert [found.id for found in data.rows] == ["mine-line-1", "7"]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["{broken"], "line 1: not JSON"),
        ([row(), "[1]"], "line 2: not a JSON object"),
        (["[" * 100_000], "line 1: not JSON"),
        ([{"harmful": True}], "line 1: 'text' is missing"),
        ([{"txt": "secret words", "harmful": True}], "did you mean 'txt'"),
        ([row(text=5)], "line 1: 'text' must be text or null, got int"),
        ([row(harmful="yes")], "line 1: 'harmful' must be true, false or null, got str"),
        ([row(), row()], "line 2: id 'a' is used twice"),
        ([row(id=True)], "line 1: 'id' must be text or a whole number"),
        ([row(category=["a"])], "line 1: 'category' must be text or null, got list"),
        ([row(response_harmful=True)], "line 1: 'response' is missing"),
        ([{"text": "secret words", "harmfull": True}], "has a label in 'harmful' (did you mean 'harmfull'"),
        ([""], "the file is empty"),
    ],
)
def test_a_broken_file_is_a_config_error_that_names_file_and_line(write_jsonl, lines, problem):
    path = write_jsonl("bad.jsonl", lines)

    with pytest.raises(ConfigError) as caught:
        load(EvalFile(path))

    assert problem in str(caught.value)
    assert str(path) in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_line_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"text": "ok", "harmful": true}\n{"text": "caf\xe9", "harmful": true}\n')

    with pytest.raises(ConfigError, match="line 2: not UTF-8"):
        load(EvalFile(path))


def test_a_missing_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load(EvalFile(tmp_path / "gone.jsonl"))


def test_a_byte_order_mark_is_no_fault(tmp_path):
    path = tmp_path / "bom.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "ok", "harmful": true}\n')

    assert len(load(EvalFile(path)).rows) == 1


def test_categories_select_rows_by_prefix(write_jsonl):
    path = write_jsonl("h.jsonl", [row(category="standard / a"), row(id="b", category="copyright"), row(id="c")])

    assert [found.id for found in load(EvalFile(path, categories=("standard",))).rows] == ["a"]


def test_the_held_out_share_is_the_one_that_training_holds_out(write_jsonl):
    texts = [f"text number {i}" for i in range(400)]
    path = write_jsonl("t.jsonl", [{"text": text, "harmful": True} for text in texts])

    kept = [found.check.text for found in load(EvalFile(path, held_out=0.1)).rows]

    assert kept == [text for text in texts if held_out(Example(text, True), 0.1)]
    assert 20 <= len(kept) <= 60


def test_of_answers_too_the_held_out_share_is_the_one_that_training_holds_out(write_jsonl, tmp_path):
    pairs = [{"text": f"q {i % 20}", "response": f"answer {i}", "response_harmful": bool(i % 2)} for i in range(400)]
    path = write_jsonl("pairs.jsonl", pairs)

    kept = [found.check.text for found in load(EvalFile(path, held_out=0.1)).rows]

    trained_on = load_source(Source(path=path.name, rail="output"), [tmp_path])
    assert kept == [example.text for example in trained_on if held_out(example, 0.1)]
    assert 20 <= len(kept) <= 60


def test_the_fingerprint_changes_with_content_rail_and_selection(write_jsonl):
    path = write_jsonl("f.jsonl", [row(category="a"), row(id="b", category="a b")])
    files = [EvalFile(path), EvalFile(path, rail="document"), EvalFile(path, categories=("a",))]
    seen = {load(file).fingerprint for file in files}

    write_jsonl("f.jsonl", [row(category="a"), row(id="b", category="a b", lang="en")])

    assert len(seen | {load(EvalFile(path)).fingerprint}) == 4


@pytest.mark.parametrize(
    ("argument", "path", "rail"),
    [
        ("a.jsonl", "a.jsonl", None),
        ("a.jsonl:tool_output", "a.jsonl", "tool_output"),
        ("C:/data/a.jsonl", "C:/data/a.jsonl", None),
        ("data:2024/a.jsonl", "data:2024/a.jsonl", None),
    ],
)
def test_a_command_line_argument_names_a_file_and_maybe_a_rail(argument, path, rail):
    file = EvalFile.parse(argument)

    assert (file.path, file.rail) == (Path(path), rail)


def test_a_misspelt_rail_is_answered_with_the_right_one():
    with pytest.raises(ConfigError, match="did you mean 'tool_output'"):
        EvalFile.parse("a.jsonl:tool_outptu")
