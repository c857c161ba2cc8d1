"""The artefact: round trips, the authors' released files, PEFT, and what does not fit."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

from guardrail_plugin.core.errors import ConfigError, SoftPromptMismatch  # noqa: E402
from guardrail_plugin.dro import SoftPrompt  # noqa: E402
from guardrail_plugin.dro.identity import ModelIdentity, tokenizer_sha256  # noqa: E402
from guardrail_plugin.dro.soft_prompt import SoftPromptInfo, text_prompt  # noqa: E402

WIDTH = 32


@pytest.fixture
def soft(llama: tuple[Any, Any]) -> SoftPrompt:
    """A soft prompt that belongs to the tiny model."""
    vectors = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0))
    identity = ModelIdentity.of(*llama, base_model="tests/tiny")
    info = SoftPromptInfo(
        **identity.as_dict(),
        method="dro",
        initial_text="Be safe.",
        seed=7,
        config={"epochs": 3},
        metrics={"loss": 0.5},
        history=({"loss": 0.6}, {"loss": 0.5}),
    )
    return SoftPrompt(vectors, info)


def test_save_and_load(soft: SoftPrompt, tmp_path: Path) -> None:
    soft.save(tmp_path / "a.safetensors")
    loaded = SoftPrompt.load(tmp_path / "a.safetensors")
    assert torch.equal(loaded.vectors, soft.vectors)
    assert loaded.info == soft.info
    loaded.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["Llama-2-7b-chat-hf", "Mistral-7B-Instruct-v0.1"])
def test_the_authors_released_files_load_when_the_base_is_named(name: str) -> None:
    named = os.environ.get("GUARDRAIL_DRO_FIXTURES")
    folder = Path(named) if named else Path(__file__).parents[4] / "shared" / "fixtures" / "dro"
    file = folder / f"{name}.soft_all_short.safetensors"
    if not file.is_file():
        pytest.skip("no released soft prompts: set GUARDRAIL_DRO_FIXTURES to their folder")
    with pytest.raises(ConfigError, match="base_model"):
        SoftPrompt.load(file)
    loaded = SoftPrompt.load(file, base_model=f"someone/{name}")
    assert loaded.vectors.shape == (23, 4096)
    assert loaded.vectors.dtype == torch.bfloat16
    assert loaded.info.base_model == f"someone/{name}"
    assert len(loaded) == 23


def test_a_file_in_the_released_format_loads(tmp_path: Path) -> None:
    save_file({"soft_prompt": torch.zeros(3, 16, dtype=torch.bfloat16)}, tmp_path / "s.safetensors")
    assert SoftPrompt.load(tmp_path / "s.safetensors", base_model="a/b").info.width == 16


def test_it_fits_its_own_model(soft: SoftPrompt, llama: tuple[Any, Any]) -> None:
    soft.require(*llama)
    soft.require(*llama, base_model="tests/tiny")


@pytest.mark.parametrize(
    ("field", "value"),
    [("width", 64), ("base_model", "tests/other"), ("revision", "abc"), ("tokenizer_sha256", "0" * 64)],
)
def test_what_differs_is_told(llama: tuple[Any, Any], field: str, value: Any) -> None:
    model, tokenizer = llama
    mine = {**ModelIdentity.of(model, tokenizer, base_model="tests/tiny").as_dict(), "revision": "def", field: value}
    soft = SoftPrompt(torch.zeros(2, mine["width"]), SoftPromptInfo(**mine))
    model.config._commit_hash = "def"
    try:
        with pytest.raises(SoftPromptMismatch) as caught:
            soft.require(model, tokenizer, base_model="tests/tiny")
    finally:
        model.config._commit_hash = None
    assert caught.value.field == field
    assert caught.value.expected == value
    assert caught.value.got != value


def test_the_tokenizer_hash_ignores_padding(llama: tuple[Any, Any]) -> None:
    _, tokenizer = llama
    before = tokenizer_sha256(tokenizer)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    try:
        assert tokenizer_sha256(tokenizer) == before
    finally:
        tokenizer.backend_tokenizer.no_padding()


@pytest.mark.parametrize("content", [None, b"hello", "other tensor", "wrong shape", "bad header"])
def test_other_files_are_no_soft_prompts(tmp_path: Path, content: Any) -> None:
    file = tmp_path / "s.safetensors"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content == "other tensor":
        save_file({"x": torch.zeros(2, 2)}, file)
    elif content == "wrong shape":
        save_file({"soft_prompt": torch.zeros(4)}, file)
    elif content == "bad header":
        save_file({"soft_prompt": torch.zeros(4, 4)}, file, {"guardrail_soft_prompt": "{}"})
    with pytest.raises(ConfigError):
        SoftPrompt.load(file, base_model="a/b")


def test_peft_takes_it_and_gives_it_back(soft: SoftPrompt, llama: tuple[Any, Any], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    soft.to_peft(tmp_path)
    back = SoftPrompt.from_peft(tmp_path)
    assert torch.equal(back.vectors, soft.vectors)
    assert back.info == soft.info
    wrapped = peft.PeftModel.from_pretrained(copy.deepcopy(llama[0]), str(tmp_path))
    assert torch.equal(wrapped.get_prompt_embedding_to_save("default"), soft.vectors)
    wrapped.save_pretrained(str(tmp_path / "theirs"), save_embedding_layers=False)
    theirs = SoftPrompt.from_peft(tmp_path / "theirs", base_model="tests/tiny")
    assert torch.equal(theirs.vectors, soft.vectors)
    assert theirs.info.base_model == "tests/tiny"


def test_other_adapters_are_refused(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    peft.LoraConfig(r=2, target_modules=["q_proj"]).save_pretrained(str(tmp_path))
    with pytest.raises(ConfigError, match="no prompt-tuning adapter"):
        SoftPrompt.from_peft(tmp_path)


def test_repr_shows_its_size_and_an_empty_text_is_refused(soft: SoftPrompt, llama: tuple[Any, Any]) -> None:
    assert "vectors" not in repr(soft)
    with pytest.raises(ConfigError, match="at least one token"):
        text_prompt(llama[0], [])
