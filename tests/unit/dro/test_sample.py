"""Drawing responses: what a response depends on, and what it does not."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from guardrail_plugin.dro import ChatSplice, Sampling  # noqa: E402
from guardrail_plugin.dro.sample import Sampler, _choose, stop_ids, turn_end  # noqa: E402
from guardrail_plugin.dro.soft_prompt import text_prompt  # noqa: E402

QUERIES = ("Hi", "How do I bake bread?", "What is a kite?", "x", "Tell me about the sea, please.")
SAFETY = "Be kind."


def _rows(tokenizer: Any, *, soft: bool = False, system: str = "") -> list[Any]:
    splice = ChatSplice(tokenizer)
    lead = [{"role": "system", "content": system}] if system else []
    return [splice.row([*lead, {"role": "user", "content": query}], soft=soft) for query in QUERIES]


def _draw(llama: tuple[Any, Any], conversations: list[Any], soft: Any = None, **settings: Any) -> list[list[str]]:
    sampling = Sampling(**{"samples": 3, "max_new_tokens": 8, **settings})
    return list(Sampler(*llama, sampling=sampling).responses(conversations, soft))


def test_k_responses_per_row_in_order(llama: tuple[Any, Any]) -> None:
    drawn = _draw(llama, _rows(llama[1]))
    assert [len(texts) for texts in drawn] == [3] * len(QUERIES)
    assert len({text for texts in drawn for text in texts}) > len(QUERIES)  # samples differ


def test_a_response_does_not_depend_on_its_batch(llama: tuple[Any, Any]) -> None:
    rows = _rows(llama[1])
    together, alone = _draw(llama, rows, rows=100), _draw(llama, rows, rows=1)
    assert together == alone
    assert _draw(llama, rows[2:3]) == together[2:3]


def test_another_seed_gives_other_responses(llama: tuple[Any, Any]) -> None:
    rows = _rows(llama[1])
    assert _draw(llama, rows, seed=1) == _draw(llama, rows, seed=1)
    assert _draw(llama, rows, seed=1) != _draw(llama, rows, seed=2)


def test_greedy_is_what_transformers_generates(family: tuple[Any, Any, Any]) -> None:
    _, model, tokenizer = family
    rows = _rows(tokenizer)
    drawn = _draw((model, tokenizer), rows, samples=1, temperature=0)
    for row, (text,) in zip(rows, drawn, strict=True):
        ids = torch.tensor([row.ids])
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8)
        assert text == tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def test_a_texts_own_embeddings_give_the_texts_responses(family: tuple[Any, Any, Any]) -> None:
    _, model, tokenizer = family
    soft = text_prompt(model, ChatSplice(tokenizer).content_ids(SAFETY))
    with_soft = _draw((model, tokenizer), _rows(tokenizer, soft=True), soft, samples=2, temperature=0)
    with_text = _draw((model, tokenizer), _rows(tokenizer, system=SAFETY), samples=2, temperature=0)
    assert with_soft == with_text


def test_a_stop_token_ends_a_response(llama: tuple[Any, Any]) -> None:
    model, tokenizer = llama
    rows = _rows(tokenizer)[:1]
    ids = torch.tensor([rows[0].ids])
    made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8)
    first, second, third = made[0, ids.shape[1] :].tolist()[:3]
    assert third not in (first, second)
    before = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = [before, third]
    try:
        assert stop_ids(model, tokenizer) == {before, third}
        (stopped,) = _draw(llama, rows, samples=1, temperature=0)[0]
    finally:
        model.generation_config.eos_token_id = before
    assert stopped == tokenizer.decode([first, second])


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("llama-2", "</s>"),
        ("llama-3", "<|eot_id|>"),
        ("qwen2", "<|im_end|>"),
        ("gemma", "<end_of_turn>"),
        ("phi-3", "<|end|>"),
    ],
)
def test_of_several_stop_tokens_the_turns_own_is_taught(
    byte_tokenizer: Any, tiny_model: Any, templates: Any, name: str, end: str
) -> None:
    one = templates[name]
    tokenizer = byte_tokenizer(one.template, one.special)
    model = tiny_model(one.architecture, len(tokenizer), **dict(one.settings))
    own = tokenizer.convert_tokens_to_ids(end)
    model.generation_config.eos_token_id = sorted({tokenizer.eos_token_id, own})
    assert turn_end(model, ChatSplice(tokenizer)) == own


@pytest.mark.parametrize(
    ("settings", "possible"),
    [
        ({"top_k": 1, "top_p": 1.0}, {2}),
        ({"top_k": 2, "top_p": 1.0}, {2, 0}),
        ({"top_k": 0, "top_p": 0.6}, {2}),
        ({"top_k": 0, "top_p": 0.7}, {2, 0}),
        ({"top_k": 0, "top_p": 1.0}, {0, 1, 2}),
        ({"temperature": 0}, {2}),
    ],
)
def test_choice_stays_within_top_k_and_top_p(settings: dict[str, Any], possible: set[int]) -> None:
    logits = torch.log(torch.tensor([0.25, 0.1, 0.65])).repeat(1001, 1)
    chosen = _choose(logits, torch.linspace(0, 0.999999, 1001, dtype=torch.float64), Sampling(**settings))
    assert set(chosen.tolist()) == possible
    if settings == {"top_k": 0, "top_p": 1.0}:
        assert float((chosen == 2).float().mean()) == pytest.approx(0.65, abs=0.002)
