"""A soft prompt as further rows of the vocabulary: same numbers as the text, through the pool's own engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from langchain_core.messages import HumanMessage, SystemMessage  # noqa: E402

import guardrail_plugin  # noqa: E402
from guardrail_plugin import ConfigError, InferencePool, SoftPromptMismatch  # noqa: E402
from guardrail_plugin.dro import ChatSplice, SoftPrompt, SoftPromptChatModel  # noqa: E402
from guardrail_plugin.dro.load import load_chat_model  # noqa: E402
from guardrail_plugin.dro.soft_chat import SoftPromptReplica, with_soft_rows  # noqa: E402
from guardrail_plugin.dro.soft_prompt import SoftPromptInfo, text_prompt  # noqa: E402
from guardrail_plugin.models.torch_engine import choose_engine  # noqa: E402
from guardrail_plugin.models.torch_replica import TorchReplica  # noqa: E402
from guardrail_plugin.pool.protocol import ScoreRequest  # noqa: E402
from guardrail_plugin.runnables.chat_model import PoolChatModel  # noqa: E402

SAFETY = "Be kind, be safe, and say so."
QUERIES = ("Hi", "How do I bake bread in a very small oven?", "x")
LABELS = tuple(range(40))


def test_logits_are_those_of_the_text_for_every_family(family: tuple[Any, Any, Any]) -> None:
    _, model, tokenizer = family
    splice = ChatSplice(tokenizer)
    soft = text_prompt(model, splice.content_ids(SAFETY))
    first = model.get_input_embeddings().num_embeddings
    text_rows = [
        splice.row([{"role": "system", "content": SAFETY}, {"role": "user", "content": query}]) for query in QUERIES
    ]
    with torch.no_grad():
        expected = [
            model(input_ids=torch.tensor([list(row.ids)])).logits[0, -1][list(LABELS)].log_softmax(-1)
            for row in text_rows
        ]
    before = model.get_input_embeddings()
    head = model.get_output_embeddings().weight
    try:
        engine = choose_engine(with_soft_rows(model, soft))
        rows = [splice.row([{"role": "user", "content": query}], soft=True) for query in QUERIES]
        ids = [(*row.head, *range(first, first + len(soft)), *row.rest) for row in rows]
        got = TorchReplica(engine=engine).score([ScoreRequest("m", one, LABELS) for one in ids])
        assert len(model.get_output_embeddings().weight) == len(head)  # a soft row is never generated
    finally:
        model.set_input_embeddings(before)
    for one, wanted in zip(got, expected, strict=True):
        assert (torch.tensor(one.logprobs) - wanted).abs().max() <= 1e-4


@pytest.fixture(scope="module")
def soft(tiny_base: Path) -> SoftPrompt:
    """The embeddings of a text, as a soft prompt."""
    model, tokenizer = load_chat_model(str(tiny_base), device="cpu")
    vectors = text_prompt(model, ChatSplice(tokenizer).content_ids(SAFETY))
    return SoftPrompt(vectors, SoftPromptInfo(width=32, method="text", base_model="tiny/tiny"))


@pytest.mark.parametrize("kind", ["file", "name", "loaded"])
async def test_answers_are_those_behind_the_text(tiny_base: Path, tmp_path: Path, soft: SoftPrompt, kind: str) -> None:
    file = tmp_path / "x.soft.safetensors"
    soft.save(file)
    given: Any = {"file": file, "name": str(file), "loaded": soft}[kind]
    async with InferencePool() as pool:
        chat = SoftPromptChatModel(model=tiny_base, soft_prompt=given, pool=pool, max_tokens=8)
        plain = PoolChatModel(model=tiny_base, pool=pool, max_tokens=8)
        for query in QUERIES:
            expected = await plain.ainvoke([SystemMessage(SAFETY), HumanMessage(query)])
            assert (await chat.ainvoke(query)).content == expected.content
            streamed = [chunk.content async for chunk in chat.astream(query)]
            assert "".join(map(str, streamed)) == expected.content
        further = [SystemMessage("Rhyme."), HumanMessage("Hi")]
        longer = [SystemMessage(f"{SAFETY}\n\nRhyme."), HumanMessage("Hi")]
        assert (await chat.ainvoke(further)).content == (await plain.ainvoke(longer)).content
        batch = await chat.abatch(list(QUERIES))
    assert [one.usage_metadata is not None for one in batch] == [True] * len(QUERIES)
    assert str(file) not in repr(chat)


class _Counting(TorchReplica):
    """Counts tokens that were run to fill the kept rows."""

    scored = 0

    def score(self, batch: Any) -> Any:
        self.scored += len(batch)
        return super().score(batch)


def test_the_prefix_is_run_once(tiny_base: Path, soft: SoftPrompt) -> None:
    from guardrail_plugin.models.kept import KeptRows
    from guardrail_plugin.pool.protocol import GenerateRequest

    model, _ = load_chat_model(str(tiny_base), device="cpu")
    first = model.get_input_embeddings().num_embeddings
    prefix = (1, 2, 3, *range(first, first + len(soft)))
    engine = choose_engine(with_soft_rows(model, soft.vectors))
    inner = _Counting(engine=engine, kept=KeptRows(max_bytes=1 << 24))
    replica = SoftPromptReplica(inner, warm=ScoreRequest("m", (*prefix, 1), (0,), prefix_len=len(prefix)))
    for _ in range(3):
        decode = replica.start([GenerateRequest("m", (*prefix, 7, 8, 9), 2)])
        while decode.step():
            pass
    assert inner.scored == 1
    assert inner.kept is not None
    assert inner.kept.stats.tokens_reused >= 3 * len(prefix)


def test_it_tells_a_pool_what_a_plain_chat_model_tells(tiny_base: Path, soft: SoftPrompt) -> None:
    with InferencePool(devices=["cpu"], replicas=1, max_model_mb=1) as pool:
        other = SoftPrompt(soft.vectors * 2, soft.info)
        for prompt in (soft, other):
            SoftPromptChatModel(model=tiny_base, soft_prompt=prompt, pool=pool, max_tokens=2).invoke("Hi")
        stats = pool.stats()
        assert len(stats.slots[0].models) == 1, "both do not fit"
        assert [one.lookups > 0 for one in stats.prefixes] == [True, True]


def test_another_models_prompt_is_refused_at_once(tiny_base: Path) -> None:
    other = SoftPrompt(torch.zeros(3, 64), SoftPromptInfo(width=64, base_model="other/model"))
    with pytest.raises(SoftPromptMismatch) as told:
        SoftPromptChatModel(model=tiny_base, soft_prompt=other, pool=InferencePool())
    assert "64" in str(told.value)
    assert "32" in str(told.value)


def test_it_is_exported_where_users_look() -> None:
    assert guardrail_plugin.SoftPromptChatModel is SoftPromptChatModel


def test_the_number_format_is_the_callers(tiny_base: Path, soft: SoftPrompt) -> None:
    with InferencePool(devices=["cpu"]) as pool:
        one, other = (
            SoftPromptChatModel(model=tiny_base, soft_prompt=soft, pool=pool, max_tokens=2, dtype=dtype)
            for dtype in ("float32", "bfloat16")
        )
        assert one._chat.key != other._chat.key
        assert isinstance(other.invoke("Hi").content, str)
    with pytest.raises(ConfigError, match="float8"):
        SoftPromptChatModel(model=tiny_base, soft_prompt=soft, pool=InferencePool(), dtype="float8")
