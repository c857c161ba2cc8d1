"""Tiny random models of real architectures, each with the chat format that its makers publish, over bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

torch = pytest.importorskip("torch")

LLAMA2 = """{% if messages[0].role == 'system' %}{% set turns = messages[1:] %}
{%- set lead = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' %}
{%- else %}{% set lead = '' %}{% set turns = messages %}{% endif %}{% for m in turns %}
{%- if m.role == 'user' %}{{ bos_token + '[INST] ' + (lead if loop.first else '') + m.content + ' [/INST]' }}
{%- else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"""

LLAMA3 = """{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>

{{ m.content | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""

MISTRAL_V01 = """{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}
{%- if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}{{ m.content + eos_token + ' ' }}
{%- endif %}{% endfor %}"""

MISTRAL_V03 = """{% if messages[0].role == 'system' %}{% set turns = messages[1:] %}
{%- set lead = messages[0].content + '\\n\\n' %}
{%- else %}{% set lead = '' %}{% set turns = messages %}{% endif %}{{ bos_token }}{% for m in turns %}
{%- if m.role == 'user' %}[INST] {{ (lead if loop.last else '') + m.content }}[/INST]
{%- else %} {{ m.content + eos_token }}{% endif %}{% endfor %}"""

CHATML_WITH_DEFAULT = """{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

QWEN3 = """{% if messages[0].role == 'system' %}<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% endif %}{% for m in messages %}
{%- if m.role == 'user' or (m.role == 'system' and not loop.first) %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% elif m.role == 'assistant' %}<|im_start|>assistant
{{ m.content.split('</think>')[-1].lstrip('\\n') }}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}{% endif %}"""

GEMMA = """{{ bos_token }}{% if messages[0].role == 'system' %}
{{- raise_exception('System role not supported') }}{% endif %}
{%- for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}
{{ m.content | trim }}<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""

PHI3 = """{% for m in messages %}<|{{ m.role }}|>
{{ m.content }}<|end|>
{% endfor %}{% if add_generation_prompt %}<|assistant|>
{% else %}{{ eos_token }}{% endif %}"""


@dataclass(frozen=True)
class Family:
    """A model family: architecture in transformers, template, special tokens, whether it has a system role."""

    name: str
    architecture: str
    template: str
    special: tuple[str, ...]
    system_role: bool = True
    settings: tuple[tuple[str, Any], ...] = ()


_CHATML = ("<|im_start|>", "<|im_end|>")
_TURNS = ("<start_of_turn>", "<end_of_turn>")
_HEAD = (("head_dim", 8),)

FAMILIES = [
    Family("llama-2", "Llama", LLAMA2, ()),
    Family("llama-3", "Llama", LLAMA3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    Family("mistral-v0.1", "Mistral", MISTRAL_V01, (), system_role=False, settings=(("sliding_window", 4096),)),
    Family("mistral-v0.3", "Mistral", MISTRAL_V03, ("[INST]", "[/INST]")),
    Family("qwen2", "Qwen2", CHATML_WITH_DEFAULT, _CHATML),
    Family("qwen3", "Qwen3", QWEN3, (*_CHATML, "<think>", "</think>"), settings=_HEAD),
    Family("gemma", "Gemma", GEMMA, _TURNS, system_role=False, settings=_HEAD),
    Family("gemma-2", "Gemma2", GEMMA, _TURNS, system_role=False, settings=_HEAD),
    Family("phi-3", "Phi3", PHI3, ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")),
]


@pytest.fixture(scope="session")
def templates() -> dict[str, Family]:
    """Families by name."""
    return {one.name: one for one in FAMILIES}


@pytest.fixture(scope="session")
def byte_tokenizer() -> Callable[..., Any]:
    """Make a byte-level tokenizer with a chat template and special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def make(template: str, special: tuple[str, ...] = ()) -> Any:
        names = ["<s>", "</s>", *special]
        vocabulary = {token: i for i, token in enumerate([*names, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
        backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens([AddedToken(token, special=True) for token in names])
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
        tokenizer.chat_template = template
        return tokenizer

    return make


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Any]:
    """Make a two-layer random model of an architecture."""
    import transformers

    def make(architecture: str, vocab_size: int, **settings: Any) -> Any:
        sizes: dict[str, Any] = {
            "vocab_size": vocab_size,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
            "initializer_range": 0.2,  # larger than usual, so that random logits differ by more than rounding
        }
        config = getattr(transformers, f"{architecture}Config")(**{**sizes, **settings})
        torch.manual_seed(0)
        return getattr(transformers, f"{architecture}ForCausalLM")(config).eval()

    return make


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest, byte_tokenizer: Any, tiny_model: Any) -> tuple[Family, Any, Any]:
    """(family, model, tokenizer)."""
    one: Family = request.param
    tokenizer = byte_tokenizer(one.template, one.special)
    return one, tiny_model(one.architecture, len(tokenizer), **dict(one.settings)), tokenizer


@pytest.fixture(scope="module")
def llama(byte_tokenizer: Any, tiny_model: Any) -> tuple[Any, Any]:
    """(model, tokenizer) of one family, for tests that do not depend on it."""
    tokenizer = byte_tokenizer(QWEN3, ("<|im_start|>", "<|im_end|>"))
    return tiny_model("Llama", len(tokenizer)), tokenizer


def _queries(verbs: tuple[str, ...], things: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"how to {verb} a {thing}" for verb in verbs for thing in things)


HARMFUL = _queries(("break", "burn", "steal"), ("lock", "car", "bank", "safe"))
HARMLESS = _queries(("paint", "bake", "fold"), ("door", "cake", "kite", "shirt"))


@pytest.fixture
def queries() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Harmful and harmless queries."""
    return HARMFUL, HARMLESS
