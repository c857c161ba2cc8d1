"""A half-aligned adapter: own lessons only, same seed same file, loads like any adapter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from safetensors import safe_open  # noqa: E402

from guardrail_plugin.core.errors import ConfigError  # noqa: E402
from guardrail_plugin.core.refusal import is_refusal  # noqa: E402
from guardrail_plugin.dro import SAFETY_PROMPTS  # noqa: E402
from guardrail_plugin.dro.config import AlignConfig  # noqa: E402
from guardrail_plugin.dro.half_aligned import METADATA_KEY, _drawn, align  # noqa: E402
from guardrail_plugin.dro.lessons import lessons  # noqa: E402
from guardrail_plugin.dro.load import load_chat_model, read_references  # noqa: E402

SIZES = {
    "harmful": 6,
    "harmless": 4,
    "everyday": 2,
    "answered": 2,
    "held_out": 2,
    "answer_tokens": 6,
    "rank": 2,
    "frames": 1,
}
CONFIG = AlignConfig(**SIZES, epochs=1, batch_size=4, tries=2)


def test_harmful_lessons_are_refusals_and_harmless_ones_are_not() -> None:
    drawn = lessons(harmful=80, harmless=80, answered=0, seed=3)
    assert sum(one.harmful for one in drawn) == 80
    assert all(one.answer is not None and is_refusal(one.answer) for one in drawn if one.harmful)
    assert all(one.answer is None for one in drawn if not one.harmful)
    assert len({one.query for one in drawn}) == 160
    assert not {one.system for one in drawn} & set(SAFETY_PROMPTS.values())  # those are what is measured
    assert 0.3 < sum(not one.system for one in drawn) / 160 < 0.7


def test_frames_put_a_topic_differently_and_bare_harmful_lessons_have_no_system_message() -> None:
    drawn = lessons(harmful=40, harmless=10, answered=0, seed=3, frames=2, bare_harmful=0.0)
    assert len({one.query for one in drawn}) == 100
    assert len({one.topic for one in drawn}) == 50
    assert all(one.system for one in drawn if one.harmful)
    bare = lessons(harmful=40, harmless=0, answered=0, seed=3, bare_harmful=1.0)
    assert not any(one.system for one in bare)


def test_no_topic_that_is_held_out_is_taught() -> None:
    held_out, taught = _drawn(CONFIG.model_copy(update={"frames": 2}), None)
    assert [one.harmful for one in held_out] == [True, True, False, False]
    assert len(taught) == 2 * (6 + 4) + 2
    assert not {one.topic for one in held_out} & {one.topic for one in taught}


def test_lessons_follow_from_the_seed() -> None:
    assert lessons(harmful=9, harmless=9, answered=0, seed=1) == lessons(harmful=9, harmless=9, answered=0, seed=1)
    assert lessons(harmful=9, harmless=9, answered=0, seed=1) != lessons(harmful=9, harmless=9, answered=0, seed=2)


def test_a_lessons_repr_shows_no_text() -> None:
    [one] = lessons(harmful=1, harmless=0, answered=0, seed=0)
    assert one.query not in repr(one)


def test_answered_lessons_come_from_the_data_folder(tmp_path: Path) -> None:
    (tmp_path / "benign").mkdir()
    for name in ("self_instruct_seed", "gsm8k_train"):
        rows = [{"text": f"{name} {i}?", "response": "Yes."} for i in range(5)]
        (tmp_path / "benign" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawn = lessons(harmful=1, harmless=1, answered=6, seed=0, data=tmp_path)
    assert sum(one.answer == "Yes." for one in drawn) == 6
    with pytest.raises(ConfigError, match="cannot read"):
        lessons(harmful=1, harmless=1, answered=6, seed=0, data=tmp_path / "absent")


def test_an_adapter_is_made_and_made_again(tiny_base: Path, tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        model, tokenizer = load_chat_model(str(tiny_base), device="cpu")
        result = align(model, tokenizer, tmp_path / name, config=CONFIG, quiet=True)
        assert result.steps == 3  # 12 lessons in batches of 4; no data folder, so none with ready answers
        made.append((tmp_path / name / "adapter_model.safetensors").read_bytes())
    assert made[0] == made[1]
    settings = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert settings["target_modules"] == sorted(settings["target_modules"])
    with safe_open(tmp_path / "one" / "adapter_model.safetensors", "pt") as file:
        told = json.loads(file.metadata()[METADATA_KEY])
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118
    assert told["config"]["harmful"] == 6
    assert told["result"]["steps"] == 3
    merged, _ = load_chat_model(str(tiny_base), adapter=tmp_path / "one", device="cpu")
    plain, _ = load_chat_model(str(tiny_base), device="cpu")
    ids = torch.tensor([[5, 6, 7]])
    assert not torch.allclose(merged(input_ids=ids).logits, plain(input_ids=ids).logits)


def test_references_without_an_answer_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "references.jsonl"
    file.write_text('{"text": "a", "response": "b"}\n{"text": "c", "response": null}\n')
    assert read_references(file) == [("a", "b")]
    file.write_text('{"text": "c", "response": null}\n')
    with pytest.raises(ConfigError, match="no reference answer"):
        read_references(file)
