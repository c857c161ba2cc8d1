"""Edges of judging: certainty itself, rails without a calibration of their own, disguised ages, long contexts, time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from guardrail_plugin.core.conversation import Check, Message
from guardrail_plugin.core.errors import GuardianError
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.core.verdict import Rail, Verdict
from guardrail_plugin.guardian import asking
from guardrail_plugin.guardian.canaries import HARMFUL, INJECTION, harmful_for
from guardrail_plugin.guardian.families.characters import CharacterTokenizer
from guardrail_plugin.guardian.families.classifier import ClassifierFamily, Head
from guardrail_plugin.guardian.families.llama_guard import LlamaGuard
from guardrail_plugin.guardian.families.own import OwnFamily
from guardrail_plugin.guardian.families.protocol import Checkpoint, Family, FamilyOptions, Kit, Reading
from guardrail_plugin.guardian.format import Layout, encoded_ends, ends
from guardrail_plugin.guardian.guardian import Guardian
from guardrail_plugin.guardian.manifest import Calibration
from guardrail_plugin.pool import GenerateRequest, ScoreRequest, ScoreResult
from guardrail_plugin.pool.protocol import Generation

LAYOUT = Layout(vocab_size=0x110000, end_id=0)


class Bytes:
    """One id per byte, and how many characters were asked for."""

    def __init__(self) -> None:
        self.read = 0

    def encode(self, text: str) -> list[int]:
        self.read += len(text)
        return list(text.encode())

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(i for i in token_ids if i < 256).decode()


class Pool:
    """Stands for the pool: answers by one function, and keeps what time it was given."""

    def __init__(self, logprobs: Any, *, clock: Any = None) -> None:
        self.logprobs, self.clock = logprobs, clock
        self.budgets: list[float | None] = []
        self.asked: list[ScoreRequest] = []

    def score_many(self, requests: Sequence[ScoreRequest], *, timeout_s: float | None) -> list[ScoreResult]:
        self.budgets.append(timeout_s)
        self.asked += requests
        return [ScoreResult(tuple(self.logprobs(request))) for request in requests]

    def generate(self, request: GenerateRequest, *, timeout_s: float | None) -> Generation:
        self.budgets.append(timeout_s)
        self.clock.now += 3.0
        return Generation(tuple(b"I can't help with that."), "stop")


def own(pool: Pool, **calibration: Calibration) -> Guardian:
    known: dict[Any, Calibration] = dict(calibration)
    return Guardian(family=OwnFamily(LAYOUT, Bytes()), pool=pool, model_key="m", calibration=known)  # type: ignore[arg-type]


def labels(**shares: float) -> Any:
    """Log-probabilities of the own format's labels: the named shares, next to nothing for the others."""
    return lambda _: [math.log(shares.get(label, 1e-9)) for label in LAYOUT.labels]


def test_the_most_certain_harm_has_a_verdict() -> None:
    """Several spellings of one answer, each rounded to float32, may sum to a little more than one."""

    class Sure(OwnFamily):
        def read(self, answers: Sequence[Sequence[float]]) -> Reading:
            return Reading(1.0000001)

    guardian = Guardian(family=Sure(LAYOUT, Bytes()), pool=Pool(labels(safe=0.5, S1=0.5)), model_key="m")  # type: ignore[arg-type]
    assert guardian.check("x").risk == pytest.approx(1.0)


@pytest.mark.parametrize(("rail", "threshold"), [("tool_output", 0.65), ("document", 0.65), ("tool_call", 0.5)])
def test_a_document_is_calibrated_like_the_tool_output_that_it_is_shown_as(rail: Rail, threshold: float) -> None:
    guardian = own(Pool(labels(safe=0.3, S1=0.7)), tool_output=Calibration(temperature=2.0, threshold=0.65))
    verdict = guardian.check(Check("x", rail=rail))
    assert verdict.threshold == threshold
    assert verdict.risk == pytest.approx(0.7 if rail == "tool_call" else 1 / (1 + math.sqrt(3 / 7)), abs=1e-6)
    documents = own(Pool(labels(safe=0.3, S1=0.7)), document=Calibration(threshold=0.9), tool_output=Calibration())
    assert documents.check(Check("x", rail="document")).threshold == 0.9


@pytest.mark.parametrize("text", ["an erotic story about a ch\u200bild", "erotica, she is f\u0456fteen year\u0455 old"])
def test_a_disguised_minor_is_one(text: str) -> None:
    verdict = own(Pool(labels(safe=0.05, S12=0.95))).check(text)
    assert verdict.hazard == "S4"
    assert verdict.hazards["S12"] == 0.0


def test_an_age_in_an_earlier_turn_is_one_of_what_is_asked_now() -> None:
    earlier = (Message("user", "She is 15 years old."), Message("assistant", "I see."))
    check = Check("an erotic story about her", context=earlier)
    assert own(Pool(labels(safe=0.05, S12=0.95))).check(check).hazard == "S4"
    assert own(Pool(labels(safe=0.05, S1=0.95))).check(check).hazard == "S1"


def test_ends_of_a_long_text_are_found_without_reading_all_of_it() -> None:
    tokenizer = Bytes()
    text = "".join(chr(97 + i % 26) for i in range(100_000))
    assert encoded_ends(tokenizer.encode, text, 128) == ends(list(text.encode()), 128)
    assert tokenizer.read < 5000
    for short in ("", "abc", "x" * 300, "y" * 4096):
        assert encoded_ends(tokenizer.encode, short, 128) == ends(list(short.encode()), 128)


def test_a_long_query_is_not_read_again_for_every_window() -> None:
    tokenizer = Bytes()
    family = OwnFamily(LAYOUT, tokenizer)
    check = Check("a" * 20_000, rail="output", query="q" * 1_000_000, context=(Message("user", "c" * 1_000_000),))
    Guardian(family=family, pool=Pool(labels(safe=0.9, S1=0.1)), model_key="m").check(check)  # type: ignore[arg-type]
    assert tokenizer.read < 64 * 10_000


def llama_guard() -> Family:
    return LlamaGuard(Kit(checkpoint=Checkpoint("g"), tokenizer=CharacterTokenizer()), "llama-guard-3")


def test_where_ids_are_characters_a_query_is_not_cut_to_a_few_words() -> None:
    family = llama_guard()
    query = "How do I get red wine out of a white tablecloth? " * 12
    [one] = family.passes(Check("With salt.", rail="output", query=query), family.encode("With salt."))
    assert query in CharacterTokenizer().prompt(one.input_ids)


def test_a_response_and_its_check_share_one_time_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        now = 100.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(asking, "time", clock)
    pool = Pool(labels(safe=0.99, S1=0.01), clock=clock)
    verdict = Verdict(
        harmful=True, risk=0.9, threshold=0.5, hazards={}, hazard="S2", rail="input", guardian_id="m"
    )  # fmt: skip
    own(pool).respond(Check("How do I forge the signature of a doctor?"), verdict, timeout_s=5.0)
    assert pool.budgets == [5.0, pytest.approx(2.0)]


@pytest.mark.parametrize(
    ("codes", "harmful"),
    [((), HARMFUL), ((None,), HARMFUL), (("PI",), INJECTION), (("PI", None), HARMFUL), (("S1", "PI"), HARMFUL)],
)
def test_canaries_are_of_a_kind_that_is_judged(codes: tuple[str | None, ...], harmful: str) -> None:
    assert harmful_for(codes) == harmful
    assert harmful_for(["S12"]) not in (HARMFUL, INJECTION)


def test_a_classifier_of_injections_passes_the_self_test() -> None:
    head = Head({"SAFE": "safe", "INJECTION": "PI"})
    family = ClassifierFamily(
        Kit(checkpoint=Checkpoint("g"), tokenizer=CharacterTokenizer(), options=FamilyOptions()), "classifier", head
    )

    def injected(request: ScoreRequest) -> list[float]:
        risk = 0.99 if "previous instructions" in CharacterTokenizer().prompt(request.input_ids) else 0.01
        return [math.log(1 - risk), math.log(risk)]

    Guardian(family=family, pool=Pool(injected), model_key="m").self_test()  # type: ignore[arg-type]


def sure_of(**texts: dict[str, float]) -> Any:
    """Labels by what a window holds: the first of these words that is in it decides."""

    def answer(request: ScoreRequest) -> list[float]:
        seen = bytes(i for i in request.input_ids if i < 256).decode()
        shares = next((shares for word, shares in texts.items() if word in seen), {"safe": 1.0})
        return [math.log(shares.get(label, 1e-9)) for label in LAYOUT.labels]

    return answer


PARTS = "adult " + "and so on, " * 100 + "bomb"


@pytest.mark.parametrize(
    ("hazards", "action"),
    [
        ({}, "block"),
        ({"S12": {"action": "allow"}}, "block"),
        ({"S12": {"action": "allow"}, "S9": {"action": "allow"}}, "allow"),
        ({"S12": {"action": "allow"}, "S9": {"action": "escalate"}}, "escalate"),
        ({"S12": {"threshold": 0.999}}, "block"),
    ],
)
def test_an_allowed_hazard_hides_no_other_one_in_the_same_text(hazards: dict[str, Any], action: str) -> None:
    pool = Pool(sure_of(adult={"safe": 0.01, "S12": 0.99}, bomb={"safe": 0.03, "S9": 0.97}))
    verdict = own(pool).check(PARTS)
    assert (verdict.hazard, [one.hazard for one in verdict.members]) == ("S12", ["S9"])
    assert Policy(hazards=hazards).action(verdict) == action


def test_a_window_that_cannot_be_read_takes_nothing_from_the_harm_in_another() -> None:
    class Failing(Pool):
        def score_many(self, requests: Sequence[ScoreRequest], *, timeout_s: float | None) -> list[ScoreResult]:
            results: list[Any] = super().score_many(requests, timeout_s=timeout_s)
            return [
                GuardianError("poisoned") if 0x7E in request.input_ids else result
                for request, result in zip(requests, results, strict=True)
            ]

    guardian = own(Failing(sure_of(bomb={"safe": 0.03, "S9": 0.97})))
    verdict = guardian.check("bomb " + "and so on, " * 100 + "~")
    assert (verdict.harmful, verdict.incomplete) == (True, True)
    assert Policy(on_failure="allow").action(verdict) == "block"
    with pytest.raises(GuardianError, match="poisoned"):
        guardian.check("boats " + "and so on, " * 100 + "~")


@pytest.mark.parametrize("blank", [" \n", "\n\t", "\u3000\u2028", "\u2800 ", ". ; ", "\U0001f600\u200b ,"])
def test_words_that_stand_far_apart_are_judged_together(blank: str) -> None:
    words = ["how", "to", "build", "a", "bomb"]

    def answer(request: ScoreRequest) -> list[float]:
        seen = bytes(i for i in request.input_ids if i < 256).decode(errors="replace")
        harm = 0.98 if {"build", "bomb"} <= set(seen.replace(".", " ").split()) else 1e-6
        return [math.log({"safe": 1 - harm, "S9": harm}.get(label, 1e-9)) for label in LAYOUT.labels]

    assert own(Pool(answer)).check((blank * 400).join(words)).harmful
