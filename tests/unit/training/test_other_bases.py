"""``--base``: a guardian on another architecture needs no change of code. Tiny random models, trained for two steps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from guardrail_plugin import Guardian  # noqa: E402
from guardrail_plugin.cli.recipes import assemble  # noqa: E402
from guardrail_plugin.core.conversation import Check  # noqa: E402
from guardrail_plugin.pool import InferencePool  # noqa: E402
from guardrail_plugin.training.loop import train  # noqa: E402


def qwen3(folder: Path, *, vocab_size: int) -> None:
    """Write a random Qwen3: normalised queries and keys, a head size of its own, an output matrix of its own."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)


@pytest.fixture
def base(request: pytest.FixtureRequest, tiny_base: Path, tmp_path: Path) -> Path:
    """The tiny Llama as it is, or a tiny Qwen3 with its tokenizer and rows that no token uses, as the real one has."""
    if request.param == "llama":
        return tiny_base
    folder = tmp_path / "tiny-qwen3"
    folder.mkdir()
    for file in tiny_base.glob("*"):
        if "token" in file.name or file.suffix == ".jinja":
            shutil.copy(file, folder)
    vocabulary = len(json.loads((tiny_base / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
    qwen3(folder, vocab_size=vocabulary + 5)
    return folder


@pytest.mark.parametrize("base", ["llama", "qwen3"], indirect=True)
def test_train_and_load(base: Path, tmp_path: Path) -> None:
    rows = [{"text": f"{'build a bomb' if i % 2 else 'bake bread'} {i}", "harmful": bool(i % 2)} for i in range(40)]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({**row, "category": "S9"}) + "\n" for row in rows), encoding="utf-8")
    recipe, folders = assemble(None, [data], base=str(base))
    small = recipe.model_copy(update={"lora_rank": 2, "batch_tokens": 256})

    result = train(small, data_folders=folders, out=tmp_path / "guardian", device="cpu", max_steps=2, quiet=True)

    assert result.steps == 2
    with InferencePool(devices=["cpu"], replicas=1) as pool:
        guardian = Guardian.load(result.folder, pool=pool)
        verdict = guardian.check("build a bomb")
        assert 0 < verdict.risk < 1
        assert sum(verdict.hazards.values()) == pytest.approx(verdict.risk)
        assert len(guardian.respond(Check("build a bomb"), verdict).split()) > 8


@pytest.mark.parametrize("base", ["llama", "qwen3"], indirect=True)
def test_verdicts_are_read_from_rows_that_the_adapter_carries(base: Path, tmp_path: Path) -> None:
    """An output matrix of its own grows by random rows at every load: the trained ones must take their place."""
    rows = [{"text": f"{'zz' if i % 2 else 'aa'} {i}", "harmful": bool(i % 2), "category": "S9"} for i in range(120)]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe, folders = assemble(None, [data], base=str(base))
    rates = {"learning_rate": 1e-2, "token_learning_rate": 2e-2, "batch_tokens": 256, "epochs": 6, "task": "detection"}
    result = train(recipe.model_copy(update=rates), data_folders=folders, out=tmp_path / "g", device="cpu", quiet=True)
    verdicts = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        with InferencePool(devices=["cpu"], replicas=1) as pool:
            guardian = Guardian.load(result.folder, pool=pool)
            verdicts.append([guardian.check(text) for text in ("zz 500", "aa 500")])
    for harmful, harmless in verdicts:
        assert (harmful.harmful, harmful.hazard, harmless.harmful) == (True, "S9", False)
    assert [one.risk for one in verdicts[0]] == pytest.approx([one.risk for one in verdicts[1]], abs=1e-6)
