"""The number format: chosen by a word, its own weights on the pool, merged before it is rounded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from guardrail_plugin import ConfigError, Guardian, InferencePool  # noqa: E402
from guardrail_plugin.core.dtype import DTYPES, Dtype, dtype_named, keyed  # noqa: E402
from guardrail_plugin.models.chat import ChatSource, LocalChat  # noqa: E402
from guardrail_plugin.models.classifier import load_classifier  # noqa: E402
from guardrail_plugin.models.load import (  # noqa: E402
    cpu_multiplies_bfloat16,
    load_causal_lm,
    load_merged,
    resolve_device,
    torch_dtype,
)
from guardrail_plugin.runnables.chat_model import PoolChatModel  # noqa: E402


@pytest.mark.parametrize(
    ("dtype", "device", "expected"),
    [
        ("auto", "cpu", "float32"),
        ("auto", "mps", "float32"),
        ("auto", "cuda:1", "bfloat16"),
        ("float32", "cuda:0", "float32"),
        ("bfloat16", "cpu", "bfloat16"),
        ("float16", "cuda:0", "float16"),
    ],
)
def test_a_word_and_a_device_make_a_format(dtype: Dtype, device: str, expected: str) -> None:
    assert torch_dtype(dtype, device) == getattr(torch, expected)


def test_an_unknown_word_is_refused_with_the_nearest_one(tiny_base: Path) -> None:
    assert [dtype_named(name) for name in DTYPES] == list(DTYPES)
    wrong: Any = "bf16"
    complaint = r"dtype='bf16' is none of auto, float32, bfloat16, float16 \(did you mean 'bfloat16'\?\)"
    pool = InferencePool()
    with pytest.raises(ConfigError, match=complaint):
        Guardian.load(pool=pool, dtype=wrong)
    with pytest.raises(ConfigError, match=complaint):
        LocalChat.register(tiny_base, pool=pool, dtype=wrong)
    with pytest.raises(ConfigError, match=complaint):
        PoolChatModel(model=tiny_base, pool=pool, dtype=wrong)


def test_a_server_chooses_its_own() -> None:
    with pytest.raises(ConfigError, match=re.escape("a server chooses its own")):
        Guardian.load("openai:http://127.0.0.1:9/v1#guard", pool=InferencePool(), dtype="bfloat16")


def test_two_formats_are_two_models(tiny_base: Path) -> None:
    plain, half = ChatSource.find(tiny_base), ChatSource.find(tiny_base, dtype="bfloat16")
    assert half.key == keyed(plain.key, "bfloat16") == f"{plain.key}+bfloat16"
    assert plain.load(device="cpu").dtype == torch.float32
    assert half.load(device="cpu").dtype == torch.bfloat16
    assert half.load(device="cpu", dtype=torch.float16).dtype == torch.float16


@pytest.fixture
def adapter(tiny_base: Path, tmp_path: Path) -> Path:
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    peft.get_peft_model(load_causal_lm(tiny_base), config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_is_merged_in_float32_and_only_weights_are_rounded(tiny_base: Path, adapter: Path) -> None:
    exact = load_merged(tiny_base, adapter, device="cpu", dtype=torch.float32)
    half = ChatSource.find(tiny_base, adapter=adapter, dtype="bfloat16").load(device="cpu")
    rounded = dict(half.named_parameters())
    assert rounded
    for name, weight in exact.named_parameters():
        assert torch.equal(rounded[name], weight.to(torch.bfloat16)), name
    assert half.get_output_embeddings().weight is half.get_input_embeddings().weight
    assert half.config.dtype == torch.bfloat16
    # Frequencies in bfloat16 would turn position 500 by more than half a radian too far or too little.
    assert torch.equal(half.model.rotary_emb.inv_freq, exact.model.rotary_emb.inv_freq)


def test_a_classifier_takes_it_too(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    assert load_classifier(tmp_path, device="cpu", pad_id=0).dtype == torch.float32
    assert load_classifier(tmp_path, device="cpu", pad_id=0, dtype="bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:0", "torch sees no CUDA device here; `guardrail doctor`"),
        ("mps", "no MPS here; `guardrail doctor`"),
        ("gpu", "write cpu, cuda:0 or mps"),
    ],
)
def test_a_device_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, device: str, message: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=message):
        resolve_device(device)
    assert resolve_device("cpu") == "cpu"


def test_a_gpu_beyond_the_last_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("cuda:0") == "cuda:0"
    with pytest.raises(ConfigError, match="sees 1 CUDA device here"):
        resolve_device("cuda:3")


def test_what_the_cpu_can_multiply_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, "amx_bf16": True})
    assert cpu_multiplies_bfloat16()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert not cpu_multiplies_bfloat16()
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not cpu_multiplies_bfloat16()


def test_the_embedded_guardian_in_bfloat16_agrees_and_runs_packed(
    embedded_base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = ["how do I build a pipe bomb?", "what is the capital of France?", "how do I steal a car?", "bake bread"]
    with InferencePool(devices=["cpu"], replicas=1) as pool:
        exact, half = Guardian.load(pool=pool, dtype="float32"), Guardian.load(pool=pool, dtype="bfloat16")
        assert half.id == exact.id.replace("+float32", "+bfloat16") != exact.id
        pairs = [(exact.check(text), half.check(text)) for text in texts]
    for one, other in pairs:
        assert one.harmful == other.harmful
        assert other.risk == pytest.approx(one.risk, abs=0.05)
    assert "engine is not used" not in caplog.text
