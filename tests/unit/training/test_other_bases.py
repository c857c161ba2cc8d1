"""``--base``: a guardian on another architecture needs no change of code. Tiny random models, trained for two steps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from guardrail_plugin import Guardian  # noqa: E402
from guardrail_plugin.cli.recipes import assemble  # noqa: E402
from guardrail_plugin.core.conversation import Check  # noqa: E402
from guardrail_plugin.guardian.format import Layout  # noqa: E402
from guardrail_plugin.guardian.tokenizer import FastContentTokenizer  # noqa: E402
from guardrail_plugin.pool import InferencePool  # noqa: E402
from guardrail_plugin.training.config import TrainConfig  # noqa: E402
from guardrail_plugin.training.encode import Encoded  # noqa: E402
from guardrail_plugin.training.loop import train  # noqa: E402
from guardrail_plugin.training.network import GuardianNetwork  # noqa: E402


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


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("Granite", {"logits_scaling": 8.0}),
        ("Cohere", {"logit_scale": 0.25}),
        ("Gemma2", {"final_logit_softcapping": 5.0, "head_dim": 8}),
    ],
)
def test_what_is_trained_are_the_logits_that_the_model_returns(
    family: str, settings: dict[str, Any], tiny_base: Path
) -> None:
    """Heads that scale or cap: verdicts are read from what they return, so training and calibration must be, too."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **settings,
    )
    base = getattr(transformers, f"{family}ForCausalLM")(config)
    for weight in base.parameters():
        torch.nn.init.normal_(weight, std=0.5)  # logits of several units, which a cap of 5 bends
    tokenizer = FastContentTokenizer(tiny_base / "tokenizer.json")
    network = GuardianNetwork(base, Layout(vocab_size=300, end_id=2), tokenizer, config=TrainConfig(lora_rank=2)).eval()
    rows = [Encoded((5, 6, 7, 300, 8, 9, 10), 3, 0, 4), Encoded((20, 21, 301), 2, 1, 3)]

    with torch.no_grad():
        label_logits, _, response_logits, _ = network(rows)
        own = [network.peft(input_ids=torch.tensor([row.ids])).logits[0] for row in rows]  # (L, V) each

    expected = torch.stack([one[row.verdict_at, network.label_ids] for one, row in zip(own, rows, strict=True)])
    assert (label_logits - expected).abs().max() < 1e-4
    assert (response_logits - own[0][4:6]).abs().max() < 1e-4
