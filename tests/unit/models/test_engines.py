"""Engines give the model's own numbers, for every family; one that does not is found out at load."""

from __future__ import annotations

import logging
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import transformers  # noqa: E402

from guardrail_plugin.core.errors import ConfigError, InferenceError  # noqa: E402
from guardrail_plugin.models.kept import Prefix  # noqa: E402
from guardrail_plugin.models.rows import Engine  # noqa: E402
from guardrail_plugin.models.torch_attention import Attention, Span  # noqa: E402
from guardrail_plugin.models.torch_engine import choose_engine  # noqa: E402
from guardrail_plugin.models.torch_generic import GenericEngine  # noqa: E402
from guardrail_plugin.models.torch_packed import PackedEngine  # noqa: E402
from guardrail_plugin.models.torch_replica import TorchReplica  # noqa: E402
from guardrail_plugin.models.torch_rotary import pin_frequencies  # noqa: E402
from guardrail_plugin.pool.protocol import GenerateRequest, ScoreRequest, Token  # noqa: E402

SMALL = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "factor": 4.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 32,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
SHARED = tuple(range(100, 112))
PROMPTS = [(*SHARED, *range(5, 5 + n)) for n in (1, 9, 20)] + [(7,), tuple(range(200, 230))]

# Up to 32 tokens these have one set of rotary frequencies, beyond that another.
BY_LENGTH: list[tuple[str, dict[str, Any], str]] = [
    (
        "Phi3",
        {"max_position_embeddings": 128, "original_max_position_embeddings": 32, "rope_parameters": LONGROPE},
        "generic",
    ),
    ("Llama", {"max_position_embeddings": 32, "rope_parameters": DYNAMIC}, "packed"),
]
FAMILIES: list[tuple[str, dict[str, Any], str]] = [
    ("Llama", {"tie_word_embeddings": True}, "packed"),
    ("Llama", {"attention_bias": True, "mlp_bias": True, "rope_parameters": LLAMA3_ROPE}, "packed"),
    ("Mistral", {"sliding_window": None}, "packed"),
    ("Mistral", {"sliding_window": 9}, "generic"),
    ("Qwen2", {}, "packed"),
    ("Qwen3", {"head_dim": 16}, "packed"),
    ("Gemma", {"head_dim": 8}, "generic"),
    ("Gemma2", {"head_dim": 8, "sliding_window": 9}, "generic"),
    ("Phi", {}, "generic"),
    ("Phi3", {}, "generic"),
    ("Granite", {"logits_scaling": 4.0}, "generic"),
    *BY_LENGTH,
]


def tiny(family: str, settings: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**SMALL, **settings})
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.15)  # the usual 0.02 hides mistakes behind flat predictions
    return model


def plain(model: Any, prompt: tuple[int, ...]) -> Any:
    return model(torch.tensor([prompt])).logits[0, -1]


@pytest.mark.parametrize(("family", "settings", "expected"), FAMILIES)
def test_every_layout_gives_the_plain_models_logits(
    family: str, settings: dict[str, Any], expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny(family, settings)
    engine = choose_engine(model)
    assert (engine.name, engine.reuses) == (expected, True)
    assert not caplog.records
    for one in [engine, GenericEngine(model)]:
        check_all_layouts(model, one)


@torch.inference_mode()  # type: ignore[untyped-decorator, unused-ignore]
def check_all_layouts(model: Any, engine: Engine) -> None:
    expected = torch.stack([plain(model, prompt) for prompt in PROMPTS])

    def same(rows: Any, rows_expected: Any = expected) -> None:
        assert (rows.logits(slice(None)) - rows_expected).abs().max() < 1e-4

    alone = engine.open(PROMPTS, [Prefix()] * len(PROMPTS))  # generic: padded on the right
    assert alone.prefill()
    same(alone)
    kept = alone.segment(0, 0)
    assert kept is not None
    own = alone.segment(4, 0)
    assert own is not None
    shared = Prefix(12, (kept[:, :, :12],))
    prefixes = [shared, shared, Prefix(9, (kept[:, :, :5], kept[:, :, 5:9])), Prefix(), Prefix(20, (own[:, :, :20],))]
    rows = engine.open(PROMPTS, prefixes, room=2)  # generic: padded on the left, behind kept rows
    while not rows.prefill(20):
        pass
    same(rows)
    rows.advance([11, 12, 13, 14, 15])
    order = rows.select([1, 3, 4])
    nexts = {1: 12, 3: 14, 4: 15}
    same(rows, torch.stack([plain(model, (*PROMPTS[i], nexts[i])) for i in order]))
    rows.advance([3] * 3)
    same(rows, torch.stack([plain(model, (*PROMPTS[i], nexts[i], 3)) for i in order]))


@pytest.mark.parametrize(("family", "settings", "expected"), BY_LENGTH)
def test_short_rows_are_the_models_own_beside_a_long_one(family: str, settings: dict[str, Any], expected: str) -> None:
    model = tiny(family, settings)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)  # attention that is sharp enough to mind positions
    short, long = tuple(range(5, 25)), tuple(range(5, 45))
    with torch.inference_mode():
        alone = plain(model, short)
        within = model(torch.tensor([long])).logits[0, len(short) - 1]
    assert (within - alone).abs().max() > 1e-3  # the same 20 tokens: transformers turns them by the longest row
    engine = choose_engine(model)
    assert (engine.name, engine.row_tokens) == (expected, 32)
    with torch.inference_mode():
        for room in (0, 1):  # generic: padded on the right and on the left
            rows = engine.open([short, long], [Prefix()] * 2, room=room)
            while not rows.prefill(16):
                pass
            assert (rows.logits(slice(None))[0] - alone).abs().max() < 1e-4


@pytest.mark.parametrize(("family", "settings", "expected"), BY_LENGTH)
def test_rows_beyond_the_frequencies_are_refused(family: str, settings: dict[str, Any], expected: str) -> None:
    replica = TorchReplica(engine=choose_engine(tiny(family, settings)))
    longest = ScoreRequest("m", tuple(range(32)), (1, 2))
    beyond = ScoreRequest("m", tuple(range(33)), (1, 2))
    assert len(replica.score([longest])) == 1
    with pytest.raises(InferenceError, match="33 tokens is longer than the 32"):
        replica.score([longest, beyond])
    with pytest.raises(InferenceError, match="33 tokens is longer than the 32"):
        replica.start([GenerateRequest("m", beyond.input_ids, 4)])
    decode = replica.start([GenerateRequest("m", tuple(range(30)), 100_000)])
    news: list[Token] = []
    while step := decode.step():
        news += step
    assert [token.finish_reason for token in news] == [None, None, None, "length"]  # the third one is not run


def test_frequencies_are_pinned_for_each_type_of_layer() -> None:
    rope = {"full_attention": dict(DYNAMIC), "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    settings = {**SMALL, "head_dim": 8, "max_position_embeddings": 32, "rope_parameters": rope}
    layers = ["sliding_attention", "full_attention", "sliding_attention"]
    model = transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**settings, layer_types=layers)).eval()
    rotary = model.model.rotary_emb
    short = rotary.full_attention_inv_freq.clone()
    rotary.full_attention_inv_freq.mul_(0.5)  # as a long row leaves them
    assert [pin_frequencies(model), pin_frequencies(model)] == [32, 32]
    with torch.inference_mode():
        model(torch.arange(40)[None])
    assert torch.equal(rotary.full_attention_inv_freq, short)
    assert rotary.rope_type == {"full_attention": "default", "sliding_attention": "default"}


def test_frequencies_for_all_lengths_are_left_alone() -> None:
    model = tiny("Llama", {"rope_parameters": LLAMA3_ROPE})
    assert pin_frequencies(model) is None
    assert model.model.rotary_emb.rope_type == "llama3"


@torch.inference_mode()  # type: ignore[untyped-decorator, unused-ignore]
def test_the_store_grows_with_the_rows_and_not_with_what_they_may_become() -> None:
    model = tiny("Llama", {})
    rows = PackedEngine(model).open([(1, 2, 3)] * 4, [Prefix()] * 4, room=100_000)
    assert rows._kv.shape[2:4] == (4, 131)
    assert rows.prefill()
    texts = [[1, 2, 3] for _ in range(4)]
    for step in range(300):
        if step == 140:  # after the first longer store, before the second
            texts = [texts[place] for place in rows.select([1, 3])]
        for row, text in enumerate(texts):
            text.append((7 * step + 31 * row) % 300)
        rows.advance([text[-1] for text in texts])
    assert rows._kv.shape[2:4] == (2, 524)
    expected = torch.stack([plain(model, tuple(text)) for text in texts])
    assert (rows.logits(slice(None)) - expected).abs().max() < 1e-4
    assert rows.segment(0, 0).shape[2] == 303


def test_fused_weights_take_the_place_of_the_models_own() -> None:
    model = tiny("Llama", {})
    before = sum({p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}.values())
    with torch.inference_mode():
        expected = plain(model, PROMPTS[1])
    PackedEngine(model)
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    assert sum(storages.values()) == before
    with torch.inference_mode():
        assert torch.equal(plain(model, PROMPTS[1]), expected)


def test_a_packed_engine_that_disagrees_is_given_up_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny("Llama", {})
    # A doctored block: the packed engine, which computes the block itself, does not see the hook.
    model.model.layers[1].mlp.register_forward_hook(lambda module, inputs, output: output * 1.5)
    with caplog.at_level(logging.WARNING):
        engine = choose_engine(model)
    assert (engine.name, engine.reuses) == ("generic", True)
    assert len(caplog.records) == 1
    assert "LlamaForCausalLM: the packed engine is not used, it differs from the model by" in caplog.text
    check_all_layouts(model, engine)


def test_a_packed_engine_that_fails_is_given_up_too(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(PackedEngine, "run", broken)
    assert choose_engine(tiny("Qwen2", {})).name == "generic"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "failed on a probe (RuntimeError)" in caplog.text


def test_a_model_that_looks_beyond_its_row_keeps_nothing(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny("Gemma", {"head_dim": 8})
    # What a position's output is depends here on how many tokens are run together, so kept rows are worthless.
    model.model.layers[0].register_forward_hook(lambda module, inputs, output: output * (1 + output.shape[1] / 10))
    with caplog.at_level(logging.WARNING):
        engine = choose_engine(model)
    assert (engine.name, engine.reuses) == ("generic", False)
    assert len(caplog.records) == 1


def test_half_precision_is_compared_with_its_own_rounding_in_mind(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_engine(tiny("Llama", {}).to(torch.bfloat16)).name == "packed"
    assert not caplog.records


def test_an_encoder_decoder_is_refused() -> None:
    config = transformers.T5Config(vocab_size=30, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with pytest.raises(ConfigError, match="decoder-only"):
        choose_engine(transformers.T5ForConditionalGeneration(config))


@pytest.mark.parametrize("rows", [[0, 1, 2], [4, 0, 2]])
def test_attention_by_row_and_padded_are_the_same(rows: list[int]) -> None:
    generator = torch.Generator().manual_seed(1)
    kv = torch.randn(2, 5, 16, 2, 8, generator=generator)
    ends, counts = [9, 16, 5], [3, 1, 5]
    starts = [0, 3, 4]
    spans = [Span(r, s, s + c, e) for r, s, c, e in zip(rows, starts, counts, ends, strict=True)]
    q = torch.randn(9, 6, 8, generator=generator)
    by_row = Attention(spans, heads=6, kv_heads=2, like=q)
    padded = Attention(spans, heads=6, kv_heads=2, like=q)
    padded._alone = False
    padded._lay_out(q.device)  # what accelerators take
    assert by_row._alone
    assert torch.allclose(by_row(q, kv), padded(q, kv), atol=1e-6)
