"""The journal and whose responses it supplies; query files; prompts by name; files that cannot be written."""

from __future__ import annotations

import copy
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from guardrail_plugin.core.errors import ConfigError  # noqa: E402
from guardrail_plugin.dro import (  # noqa: E402
    SAFETY_PROMPTS,
    ChatSplice,
    Config,
    EvaluationConfig,
    Journal,
    Sampling,
    SoftPrompt,
    evaluate,
)
from guardrail_plugin.dro.draw import Drawer  # noqa: E402
from guardrail_plugin.dro.fit import conversation  # noqa: E402
from guardrail_plugin.dro.identity import model_sha256  # noqa: E402
from guardrail_plugin.dro.load import read_queries, read_references  # noqa: E402
from guardrail_plugin.dro.loop import optimise  # noqa: E402
from guardrail_plugin.dro.prompts import named_prompts, prompt_text  # noqa: E402
from guardrail_plugin.dro.soft_prompt import SoftPromptInfo  # noqa: E402
from guardrail_plugin.dro.writing import require_writable  # noqa: E402

ODD = "one\u2028two\u0085three\x0bfour\x1cfive, half a pair: \ud83d"


def _draw(model: Any, tokenizer: Any, file: Path) -> list[list[str]]:
    row = ChatSplice(tokenizer).row(conversation("Hi"))
    drawer = Drawer(model, tokenizer, sampling=Sampling(samples=2, max_new_tokens=6), journal=Journal(file))
    return drawer.draw([row], ["Hi"], condition="none")


def _adapted(model: Any) -> Any:
    """A copy with a merged low-rank change in one matrix."""
    other = copy.deepcopy(model)
    weight = other.model.layers[1].mlp.up_proj.weight
    with torch.no_grad():
        weight += torch.randn(weight.shape[0], 1) @ torch.randn(1, weight.shape[1])
    return other


@pytest.mark.parametrize("change", [_adapted, lambda model: copy.deepcopy(model).to(torch.bfloat16)])
def test_another_models_responses_are_not_supplied(
    llama: tuple[Any, Any], tmp_path: Path, change: Callable[[Any], Any]
) -> None:
    model, tokenizer = llama
    file = tmp_path / "drawn.jsonl"
    first = _draw(model, tokenizer, file)
    assert _draw(copy.deepcopy(model), tokenizer, file) == first
    assert len(file.read_text().splitlines()) == 1
    other = change(model)
    assert _draw(other, tokenizer, file) == _draw(other, tokenizer, tmp_path / "alone.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len({line["model"] for line in lines}) == len(lines) == 2


def test_where_a_model_came_from_does_not_change_its_hash(llama: tuple[Any, Any]) -> None:
    moved = copy.deepcopy(llama[0])
    moved.config._name_or_path = "/elsewhere"
    assert model_sha256(moved) == model_sha256(llama[0])


def test_odd_characters_stay_within_their_line(tmp_path: Path) -> None:
    file = tmp_path / "drawn.jsonl"
    Journal(file).put("a", [ODD])
    Journal(file).put("b", ["plain"])
    assert (Journal(file).get("a"), Journal(file).get("b")) == ([ODD], ["plain"])
    older = json.dumps({"key": "c", "responses": ["one\u2028two\u0085three"]}, ensure_ascii=False)
    file.write_text(older + "\n", encoding="utf-8")
    assert Journal(file).get("c") == ["one\u2028two\u0085three"]


def test_the_journals_folder_is_made(tmp_path: Path) -> None:
    Journal(tmp_path / "a" / "b" / "drawn.jsonl").put("key", ["text"])
    assert Journal(tmp_path / "a" / "b" / "drawn.jsonl").get("key") == ["text"]


def _optimise(checkpoint: Path | None = None) -> None:
    def loss_of(soft: Any, _: object) -> Any:
        return soft.sum(), {"loss": 0.0}

    config = Config(checkpoint_every=1, epochs=1)
    optimise(torch.zeros(1, 2), loss_of, 2, config=config, checkpoint=checkpoint)


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: Journal(folder / "drawn.jsonl").put("key", ["text"]),
        lambda folder: SoftPrompt(torch.zeros(2, 8), SoftPromptInfo(width=8)).save(folder / "soft.safetensors"),
        lambda folder: require_writable(folder / "report.json"),
        lambda folder: _optimise(folder / "checkpoint"),
    ],
)
def test_what_cannot_be_written_is_told_in_one_line(tmp_path: Path, write: Callable[[Path], None]) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot write"):
        write(tmp_path / "file")


def test_a_look_at_what_can_be_written_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("kept")
    require_writable(tmp_path / "old", tmp_path / "deep" / "new")
    assert (tmp_path / "old").read_text() == "kept"
    assert list((tmp_path / "deep").iterdir()) == []


def test_queries_are_read_whole(tmp_path: Path) -> None:
    rows, lines = tmp_path / "rows.jsonl", tmp_path / "lines.txt"
    text = "one\u2028two\u0085three"
    rows.write_text(json.dumps({"text": text}, ensure_ascii=False) + "\r\n\r\n", encoding="utf-8-sig")
    lines.write_text(f"{text}\n\nfour\n", encoding="utf-8-sig")
    assert read_queries(rows) == [text]
    assert read_queries(lines) == [text, "four"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.csv", "text\nhi\n", "not from .csv"),
        ("q.JSON", '["hi"]', "not from .json"),
        ("q.jsonl", '{"text": "hi"}\n{"text": {"a": 1}}\n', 'line 2: "text" is not a string'),
        ("q.jsonl", '{"text": 3}\n', 'line 1: "text" is not a string'),
    ],
)
def test_files_that_hold_no_queries_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_queries(tmp_path / name)


def test_reference_answers_are_strings(tmp_path: Path) -> None:
    file = tmp_path / "references.jsonl"
    file.write_text('{"text": "a", "response": null}\n{"text": "b", "response": ["c"]}\n')
    with pytest.raises(ConfigError, match='line 2: "response" is not a string'):
        read_references(file)


@pytest.mark.parametrize("word", ["mistrall", "Default", " shortt"])
def test_a_word_that_is_nearly_a_name_is_not_a_prompt(word: str) -> None:
    with pytest.raises(ConfigError, match="did you mean"):
        named_prompts([word])
    with pytest.raises(ConfigError, match="did you mean"):
        prompt_text(word)


def test_names_and_texts_are_prompts() -> None:
    assert named_prompts(["short", "Be short.", "Behave"]) == {
        "short": SAFETY_PROMPTS["short"],
        "prompt-2": "Be short.",
        "prompt-3": "Behave",
    }


def test_no_more_are_kept_than_drawn() -> None:
    with pytest.raises(ConfigError, match="kept: 30 are more than the 25 drawn"):
        EvaluationConfig(kept=30)
    with pytest.raises(ConfigError, match="more than the 2 drawn"):
        EvaluationConfig(drawn=2, kept=3)


def test_a_file_gets_no_progress_bar(llama: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    settings = EvaluationConfig(drawn=1, kept=1, harmless_tokens=2)
    evaluate(*llama, prompt=None, harmless={"set": ["Hi"]}, config=settings)
    _optimise()
    assert stderr.getvalue() == ""
