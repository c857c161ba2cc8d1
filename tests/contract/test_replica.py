"""The replica contract, here and on a server: scores and decodes equal the plain model's, batch equals single."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from guardrail_plugin.models.kept import KeptRows  # noqa: E402
from guardrail_plugin.models.load import load_causal_lm  # noqa: E402
from guardrail_plugin.models.remote import RemoteFactory  # noqa: E402
from guardrail_plugin.models.rows import Engine  # noqa: E402
from guardrail_plugin.models.torch_generic import GenericEngine  # noqa: E402
from guardrail_plugin.models.torch_packed import PackedEngine  # noqa: E402
from guardrail_plugin.models.torch_replica import TorchReplica  # noqa: E402
from guardrail_plugin.pool.protocol import Decode, GenerateRequest, Replica, ScoreRequest, Token  # noqa: E402

TEMPLATE = (60, 61, 62, 63, 64, 65, 66, 67, 68, 69)
PROMPTS = [(5, 6, 7), (9, 8, 7, 6, 5, 4, 3, 10, 11, 12), (42,), (5, 6, 7, 8), (*TEMPLATE, 7), (*TEMPLATE, 3, 4, 5)]
LABELS = (20, 30, 40)


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Any:
    return load_causal_lm(tiny_base)


ENGINES = ["generic", "generic, own head", "generic, nothing kept", "packed"]


def make_engine(name: str, model: Any) -> Engine:
    if name == "packed":
        return PackedEngine(model)
    generic = GenericEngine(model, reuses="nothing" not in name)
    generic.plain_head = "own" not in name  # architectures that scale or cap their logits have a head of theirs
    return generic


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, model: Any) -> Engine:
    return make_engine(request.param, model)


@pytest.fixture(params=[*ENGINES, "remote"])
def replica(request: pytest.FixtureRequest, model: Any) -> Replica:
    if request.param == "remote":
        server, codec = request.getfixturevalue("serve")(), request.getfixturevalue("codec")
        return RemoteFactory(f"openai:{server.url}#m", codec=codec)("auto")
    return TorchReplica(engine=make_engine(request.param, model), kept=KeptRows(max_bytes=1 << 20))


def reused(replica: Replica) -> tuple[int, int] | None:
    """Rows kept and tokens reused, where that can be seen."""
    if not isinstance(replica, TorchReplica) or replica.kept is None:
        return None
    return replica.kept.stats.rows, replica.kept.stats.tokens_reused


def score_requests(*prompts: tuple[int, ...], labels: tuple[int, ...] = LABELS) -> list[ScoreRequest]:
    return [ScoreRequest("m", prompt, labels) for prompt in prompts]


def plain_scores(model: Any, prompt: tuple[int, ...]) -> Any:
    with torch.inference_mode():
        return model(torch.tensor([prompt])).logits[0, -1, list(LABELS)].log_softmax(-1)


def plain_answer(model: Any, prompt: tuple[int, ...], stop_ids: frozenset[int], *, tokens: int) -> list[int]:
    with torch.inference_mode():
        made: list[int] = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=list(stop_ids) or None,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
    return made


def drain(decode: Decode, first: Sequence[Token] = ()) -> dict[int, tuple[list[int], str]]:
    """Run a decode to its end: per row its ids and why it ended."""
    ids: dict[int, list[int]] = {}
    reasons: dict[int, str] = {}
    while news := [*first, *decode.step()]:
        first = ()
        for token in news:
            if token.token_id is not None:
                ids.setdefault(token.row, []).append(token.token_id)
            if token.finish_reason is not None:
                assert token.row not in reasons, "a row ended twice"
                reasons[token.row] = token.finish_reason
    return {row: (ids.get(row, []), reason) for row, reason in reasons.items()}


def test_scores_are_the_models_own_log_probabilities_however_often_asked(model: Any, replica: Replica) -> None:
    for _ in range(2):  # the second time from kept rows
        for prompt, result in zip(PROMPTS, replica.score(score_requests(*PROMPTS)), strict=True):
            assert torch.allclose(torch.tensor(result.logprobs), plain_scores(model, prompt), atol=1e-4)


def test_a_declared_prefix_is_run_once(model: Any, replica: Replica) -> None:
    requests = [ScoreRequest("m", (*TEMPLATE, *tail), LABELS, prefix_len=10) for tail in [(7,), (3, 4), (9, 9, 9, 1)]]
    for request, result in zip(requests, replica.score(requests), strict=True):
        assert torch.allclose(torch.tensor(result.logprobs), plain_scores(model, request.input_ids), atol=1e-4)
    assert reused(replica) in (None, (1, 30))


def test_rows_may_ask_for_different_labels(replica: Replica) -> None:
    mixed = [ScoreRequest("m", PROMPTS[0], (30, 20)), ScoreRequest("m", PROMPTS[1], LABELS)]
    alone = [replica.score([request])[0] for request in mixed]
    assert [len(r.logprobs) for r in replica.score(mixed)] == [2, 3]
    for a, b in zip(replica.score(mixed), alone, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


@pytest.mark.parametrize("stop_ids", [frozenset(), frozenset(range(0, 259, 9))])
def test_greedy_decoding_equals_generate(model: Any, replica: TorchReplica, stop_ids: frozenset[int]) -> None:
    requests = [GenerateRequest("m", prompt, max_new_tokens=12, stop_ids=stop_ids) for prompt in PROMPTS]
    found = drain(replica.start(requests))
    for row, prompt in enumerate(PROMPTS):
        made = plain_answer(model, prompt, stop_ids, tokens=12)
        stopped = bool(made) and made[-1] in stop_ids
        assert found[row] == (made[:-1] if stopped else made, "stop" if stopped else "length")


def test_a_response_starts_from_its_verdicts_keys_and_values(model: Any, replica: Replica) -> None:
    texts = [(*TEMPLATE, *range(n, 2 * n)) for n in (4, 11, 7)]
    replica.score(score_requests(*texts))
    found = drain(replica.start([GenerateRequest("m", (*text, 21, 13), max_new_tokens=9) for text in texts]))
    for row, text in enumerate(texts):
        assert found[row][0] == plain_answer(model, (*text, 21, 13), frozenset(), tokens=9)
    if found_kept := reused(replica):
        assert found_kept[1] == sum(len(text) for text in texts)


def test_an_ended_answer_is_kept_for_the_next_turn(model: Any, engine: Engine) -> None:
    replica = TorchReplica(engine=engine, kept=KeptRows(max_bytes=1 << 20), keep_answers=True)
    first = drain(replica.start([GenerateRequest("m", TEMPLATE, max_new_tokens=n) for n in (3, 6)]))
    turn = (*TEMPLATE, *first[1][0], 14, 15, 16)
    second = drain(replica.start([GenerateRequest("m", turn, max_new_tokens=5)]))
    assert second[0][0] == plain_answer(model, turn, frozenset(), tokens=5)
    if replica.kept is not None:
        assert replica.kept.stats.tokens_reused == len(TEMPLATE) + 5  # the newest token of an answer was never run


def test_long_prompts_are_run_in_helpings(model: Any, replica: Replica) -> None:
    prompts = [tuple((i * 13 + n) % 250 for i in range(n)) for n in (400, 30, 300)]
    decode = replica.start([GenerateRequest("m", prompt, max_new_tokens=3) for prompt in prompts])
    first = decode.step()
    if isinstance(replica, TorchReplica):
        assert [(token.token_id, token.finish_reason) for token in first] == [(None, None)]
    decode.cancel(1)  # while the prompts are still being run
    found = drain(decode, first)
    assert found[1][1] == "cancelled"
    for row in (0, 2):
        assert found[row][0] == plain_answer(model, prompts[row], frozenset(), tokens=3)


def test_rows_of_different_length_limits_do_not_disturb_each_other(replica: Replica) -> None:
    limits = (1, 9, 3, 6, 2, 9)
    requests = [GenerateRequest("m", prompt, max_new_tokens=n) for prompt, n in zip(PROMPTS, limits, strict=True)]
    together = drain(replica.start(requests))
    for row, request in enumerate(requests):
        assert together[row] == drain(replica.start([request]))[0]


def test_sampling_depends_on_the_seed_alone(replica: Replica) -> None:
    def sample(seed: int, *, company: int = 0) -> list[int]:
        request = GenerateRequest("m", PROMPTS[1], 16, temperature=1.0, top_p=0.9, top_k=50, seed=seed)
        others = [GenerateRequest("m", PROMPTS[0], 16, temperature=1.0, seed=99)] * company
        return drain(replica.start([request, *others]))[0][0]

    assert sample(1) == sample(1) == sample(1, company=2)
    assert sample(1) != sample(2)


def test_a_cancelled_row_stops_and_the_others_go_on(replica: Replica) -> None:
    requests = [GenerateRequest("m", prompt, max_new_tokens=8) for prompt in PROMPTS]
    expected = drain(replica.start(requests))
    decode = replica.start(requests)
    first = decode.step()
    decode.cancel(1)
    found = drain(decode, first)
    assert len(found[1][0]) <= 1
    assert found[1][1] == "cancelled"
    for row in (0, 2, 3, 4, 5):
        assert found[row] == expected[row]


def test_suppressed_ids_are_never_generated(engine: Engine) -> None:
    replica = TorchReplica(engine=engine, first_suppressed=30)
    ids = drain(replica.start([GenerateRequest("m", PROMPTS[1], 30, temperature=5.0, seed=3)]))[0][0]
    assert len(ids) == 30
    assert max(ids) < 30
