"""The replica contract on the local torch replica: scores and decodes equal the plain model's, batch equals single."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from guardrail_plugin.models.load import load_causal_lm  # noqa: E402
from guardrail_plugin.models.torch_replica import TorchReplica  # noqa: E402
from guardrail_plugin.pool.protocol import Decode, GenerateRequest, ScoreRequest  # noqa: E402

PROMPTS = [(5, 6, 7), (9, 8, 7, 6, 5, 4, 3, 10, 11, 12), (42,), (5, 6, 7, 8)]
LABELS = (20, 30, 40)


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Any:
    return load_causal_lm(tiny_base)


@pytest.fixture
def replica(model: Any) -> TorchReplica:
    return TorchReplica(model=model, device="cpu")


def score_requests(*prompts: tuple[int, ...], labels: tuple[int, ...] = LABELS) -> list[ScoreRequest]:
    return [ScoreRequest("m", prompt, labels) for prompt in prompts]


def drain(decode: Decode) -> dict[int, tuple[list[int], str]]:
    """Run a decode to its end: per row its ids and why it ended."""
    ids: dict[int, list[int]] = {}
    reasons: dict[int, str] = {}
    while news := decode.step():
        for token in news:
            if token.token_id is not None:
                ids.setdefault(token.row, []).append(token.token_id)
            if token.finish_reason is not None:
                assert token.row not in reasons, "a row ended twice"
                reasons[token.row] = token.finish_reason
    return {row: (ids.get(row, []), reason) for row, reason in reasons.items()}


def test_scores_are_the_models_own_log_probabilities(model: Any, replica: TorchReplica) -> None:
    for prompt, result in zip(PROMPTS, replica.score(score_requests(*PROMPTS)), strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([prompt])).logits[0, -1]
        expected = logits[list(LABELS)].log_softmax(-1)
        assert torch.allclose(torch.tensor(result.logprobs), expected, atol=1e-4)


def test_a_models_own_head_gives_the_same_scores(model: Any, replica: TorchReplica) -> None:
    plain = replica.score(score_requests(*PROMPTS))
    replica._plain_head = False  # what architectures that scale or cap their logits take
    for a, b in zip(plain, replica.score(score_requests(*PROMPTS)), strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


def test_rows_may_ask_for_different_labels(replica: TorchReplica) -> None:
    mixed = [ScoreRequest("m", PROMPTS[0], (20, 30)), ScoreRequest("m", PROMPTS[1], LABELS)]
    alone = [replica.score([request])[0] for request in mixed]
    assert [len(r.logprobs) for r in replica.score(mixed)] == [2, 3]
    for a, b in zip(replica.score(mixed), alone, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


@pytest.mark.parametrize("stop_ids", [frozenset(), frozenset(range(0, 259, 9))])
def test_greedy_decoding_equals_generate(model: Any, replica: TorchReplica, stop_ids: frozenset[int]) -> None:
    requests = [GenerateRequest("m", prompt, max_new_tokens=12, stop_ids=stop_ids) for prompt in PROMPTS]
    found = drain(replica.start(requests))
    for row, prompt in enumerate(PROMPTS):
        with torch.inference_mode():
            made = model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=12,
                do_sample=False,
                eos_token_id=list(stop_ids) or None,
                pad_token_id=0,
            )[0, len(prompt) :].tolist()
        stopped = bool(made) and made[-1] in stop_ids
        assert found[row] == (made[:-1] if stopped else made, "stop" if stopped else "length")


def test_rows_of_different_length_limits_do_not_disturb_each_other(replica: TorchReplica) -> None:
    requests = [GenerateRequest("m", prompt, max_new_tokens=n) for prompt, n in zip(PROMPTS, (1, 9, 3, 6), strict=True)]
    together = drain(replica.start(requests))
    for row, request in enumerate(requests):
        assert together[row] == drain(replica.start([request]))[0]


def test_sampling_depends_on_the_seed_alone(replica: TorchReplica) -> None:
    def sample(seed: int, *, company: int = 0) -> list[int]:
        request = GenerateRequest("m", PROMPTS[1], 16, temperature=1.0, top_p=0.9, top_k=50, seed=seed)
        others = [GenerateRequest("m", PROMPTS[0], 16, temperature=1.0, seed=99)] * company
        return drain(replica.start([request, *others]))[0][0]

    assert sample(1) == sample(1) == sample(1, company=2)
    assert sample(1) != sample(2)


def test_a_cancelled_row_stops_and_the_others_go_on(replica: TorchReplica) -> None:
    requests = [GenerateRequest("m", prompt, max_new_tokens=8) for prompt in PROMPTS]
    expected = drain(replica.start(requests))
    decode = replica.start(requests)
    decode.step()
    decode.cancel(1)
    rest = drain(decode)
    assert rest[1] == ([], "cancelled")
    for row in (0, 2, 3):
        assert rest[row] == (expected[row][0][1:], "length")


def test_suppressed_ids_are_never_generated(model: Any) -> None:
    replica = TorchReplica(model=model, device="cpu", first_suppressed=30)
    ids = drain(replica.start([GenerateRequest("m", PROMPTS[1], 30, temperature=5.0, seed=3)]))[0][0]
    assert len(ids) == 30
    assert max(ids) < 30
