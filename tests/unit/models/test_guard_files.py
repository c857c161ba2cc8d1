"""What tells one checkpoint from another, and what is never loaded from one."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from guardrail_plugin.core.errors import ConfigError, ModelNotFoundError
from guardrail_plugin.guardian.guardian import Guardian
from guardrail_plugin.models import gguf
from guardrail_plugin.models.chat_template import ChatSplice
from guardrail_plugin.models.classifier import load_classifier
from guardrail_plugin.models.guard_files import GuardFiles
from guardrail_plugin.pool import InferencePool


def checkpoint(folder: Path, weights: bytes) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_fine_tunes_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    """Merged adapters leave header and embeddings as they are: two such folders must not share weights on a pool."""
    size = 4 << 20
    tuned = bytearray(size)
    tuned[size // 2 : size // 2 + size // 16] = b"\1" * (size // 16)
    folders = [checkpoint(tmp_path / name / "merged", bytes(b)) for name, b in (("a", bytes(size)), ("b", tuned))]
    first, second = (GuardFiles.read(folder).fingerprint for folder in folders)
    assert first != second
    assert GuardFiles.read(checkpoint(tmp_path / "c" / "merged", bytes(size))).fingerprint == first


SHORT_AND_LONG = {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}


@pytest.mark.parametrize(
    "config",
    [
        {"original_max_position_embeddings": 4096, "rope_scaling": SHORT_AND_LONG},
        {"rope_parameters": {**SHORT_AND_LONG, "original_max_position_embeddings": 4096}},
    ],
)
def test_the_longest_input_has_the_frequencies_of_short_rows(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 131_072, **config}))
    assert GuardFiles.read(tmp_path).max_positions == 4096


def test_pickled_weights_are_not_loaded(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "guard", b"")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with InferencePool() as pool, pytest.raises(ModelNotFoundError, match="pickled weights are not loaded"):
        Guardian.load(folder, family="llama-guard-3", pool=pool)


@pytest.mark.parametrize("load", [ChatSplice.of_folder, lambda folder: load_classifier(folder, device="cpu", pad_id=0)])
def test_a_checkpoints_own_code_is_neither_run_nor_asked_about(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = {"AutoTokenizer": ["mine.Tokenizer", None], "AutoModelForSequenceClassification": "mine.Model"}
    classes |= {"AutoConfig": "mine.Config"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": classes}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": classes}))
    (tmp_path / "mine.py").write_text("raise SystemExit('it ran')")
    asked: list[str] = []

    def answered(question: str = "") -> str:
        asked.append(question)
        return "n"

    monkeypatch.setattr(builtins, "input", answered)
    with pytest.raises(ValueError, match="trust_remote_code"):
        load(tmp_path)
    assert asked == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(gguf, "_require", lambda package: None)
    with pytest.raises(ConfigError, match="XDG_CACHE_HOME"):
        gguf.convert(model, quiet=True)


def test_every_rank_of_a_distributed_run_converts_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes of ``torchrun`` on a fresh machine: the faster one's folder is the one that both then read."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    model = transformers.LlamaForCausalLM(config)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda *group: 1)
    gguf._write(model, tmp_path)
    monkeypatch.undo()
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(back) is type(model)
    assert all(torch.equal(back.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
