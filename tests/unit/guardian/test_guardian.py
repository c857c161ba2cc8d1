"""The guardian over a scripted replica: what it asks of the pool, and what it makes of the answers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from guardrail_plugin.core.conversation import Check, Message
from guardrail_plugin.core.errors import (
    ConfigError,
    GuardrailError,
    InferenceError,
    InputError,
    PoolClosed,
    VerdictParseError,
)
from guardrail_plugin.core.hazards import MLCOMMONS
from guardrail_plugin.core.policy import HazardRule, Policy
from guardrail_plugin.core.verdict import Rail, Verdict
from guardrail_plugin.guardian.families.own import OwnFamily
from guardrail_plugin.guardian.format import Layout
from guardrail_plugin.guardian.guardian import Guardian, calibrated, conversation
from guardrail_plugin.guardian.manifest import Calibration, HazardEntry, Manifest
from guardrail_plugin.guardian.responding import is_written, written
from guardrail_plugin.guardian.tokenizer import FastContentTokenizer
from guardrail_plugin.pool import GenerateRequest, InferencePool, ScoreRequest
from guardrail_plugin.testing import allow_all
from guardrail_plugin.testing.replicas import ScriptedReplica

MANIFEST = Manifest(
    name="tiny",
    base_model="tiny",
    tokenizer_sha256="0" * 64,
    vocab_size=259,
    end_id=2,
    token_names=Layout(vocab_size=259, end_id=2).token_names,
    taxonomy=tuple(HazardEntry(code=h.code, name=h.name, definition=h.definition) for h in MLCOMMONS),
    window_tokens=32,
    overlap_tokens=8,
    context_tokens=16,
    calibration={"input": Calibration(threshold=0.6), "output": Calibration(temperature=2.0)},
)
LAYOUT = MANIFEST.layout
REFUSAL = "I can't help with explosives or how they are made. I can report a threat."


RISKS = {"bomb": 0.9, "edge": 0.6, "below": 0.59, "nan": math.nan}


class Bench:
    """A guardian, its tokenizer, and the replica behind it. A text that holds a word of ``RISKS`` gets its risk."""

    def __init__(self, tokenizer: FastContentTokenizer, pool: InferencePool) -> None:
        self.tokenizer = tokenizer
        self.pool = pool
        self.response = REFUSAL
        self.replica = ScriptedReplica(logprobs=self._logprobs, tokens=self._tokens, fail=self._fail)
        pool.register("tiny", self.replica.factory)
        self.guardian = Guardian(manifest=MANIFEST, tokenizer=tokenizer, pool=pool, model_key="tiny", max_windows=4)

    def text_of(self, request: ScoreRequest) -> str:
        """What is judged: what follows the last turn, which is context."""
        ids = list(request.input_ids)
        turn = LAYOUT.control("turn")
        while turn in ids:
            ids = ids[ids.index(turn) + 1 :]
        return self.tokenizer.decode(ids)

    def scored(self) -> list[ScoreRequest]:
        requests = [r for call in self.replica.calls if call.kind == "score" for r in call.requests]
        return [r for r in requests if isinstance(r, ScoreRequest)]

    def decoded(self) -> list[GenerateRequest]:
        requests = [r for call in self.replica.calls if call.kind == "start" for r in call.requests]
        return [r for r in requests if isinstance(r, GenerateRequest)]

    def _logprobs(self, request: ScoreRequest) -> list[float]:
        risk = max((risk for word, risk in RISKS.items() if word in self.text_of(request)), default=0.1)
        labels = len(request.label_ids)
        other = (risk * 0.1) / (labels - 2)
        p = [1 - risk, *([other] * (labels - 1))]
        drifts = LAYOUT.control("turn") in request.input_ids and "drift" in self.text_of(request)
        p[LAYOUT.labels.index("PI" if drifts else "S9")] = risk * 0.9
        return [math.log(x) if not math.isnan(x) else math.nan for x in p]

    def _tokens(self, request: GenerateRequest) -> list[int]:
        return self.tokenizer.encode(self.response)[: request.max_new_tokens]

    def _fail(self, request: object) -> BaseException | None:
        broken = isinstance(request, ScoreRequest) and "poison" in self.text_of(request)
        return RuntimeError("kernel") if broken else None


@pytest.fixture
def bench(tiny_base: Path) -> Iterator[Bench]:
    with InferencePool() as pool:
        yield Bench(FastContentTokenizer(tiny_base / "tokenizer.json"), pool)


async def both(bench: Bench, text: str | Check) -> Verdict:
    """The verdict by the sync and by the async door: the same."""
    sync, later = bench.guardian.check(text), await bench.guardian.acheck(text)
    for field in ("risk", "harmful", "hazard", "windows", "truncated"):
        assert getattr(sync, field) == getattr(later, field)
    return later


@pytest.mark.parametrize(
    ("text", "harmful", "risk"),
    [("a bomb", True, 0.9), ("hello", False, 0.1), ("edge", True, 0.6), ("below", False, 0.59)],
)
async def test_a_verdict_is_the_label_distribution(bench: Bench, text: str, harmful: bool, risk: float) -> None:
    verdict = await both(bench, text)
    assert verdict.harmful is harmful
    assert verdict.risk == pytest.approx(risk)
    assert verdict.threshold == 0.6
    assert sum(verdict.hazards.values()) == pytest.approx(risk)
    assert verdict.hazard == "S9"
    assert set(verdict.hazards) == set(LAYOUT.taxonomy.codes)
    assert (verdict.rail, verdict.guardian_id, verdict.windows, verdict.truncated) == ("input", "tiny", 1, False)


async def test_a_long_text_is_judged_by_its_worst_window(bench: Bench) -> None:
    verdict = await both(bench, "x" * 50 + " bomb " + "y" * 20)
    assert (verdict.risk, verdict.windows, verdict.truncated) == (pytest.approx(0.9), 3, False)


async def test_a_text_beyond_the_window_budget_says_so(bench: Bench) -> None:
    verdict = await both(bench, "x" * 1000 + "bomb")
    assert (verdict.windows, verdict.truncated) == (4, True)
    assert verdict.harmful  # the end is always looked at


@pytest.mark.parametrize("text", ["", "   \n\t", "\u200b"])
async def test_nothing_to_check_is_an_input_error(bench: Bench, text: str) -> None:
    if not text.strip():
        with pytest.raises(InputError, match="no text to check"):
            bench.guardian.check(text)
        with pytest.raises(InputError, match="no text to check"):
            await bench.guardian.acheck(text)
    else:
        assert not bench.guardian.check(text).harmful


def test_only_text_is_checked(bench: Bench) -> None:
    with pytest.raises(InputError, match="got bytes"):
        bench.guardian.check(b"bytes")  # type: ignore[arg-type]


async def test_one_bad_text_does_not_spoil_the_others(bench: Bench) -> None:
    checks = [Check("a bomb"), Check("poison"), Check(""), Check("hello"), Check("nan")]
    for outcomes in (bench.guardian.check_many(checks), await bench.guardian.acheck_many(checks)):
        kinds = [type(outcome) for outcome in outcomes]
        assert kinds == [Verdict, InferenceError, InputError, Verdict, VerdictParseError]
        assert not any("poison" in str(o) for o in outcomes if isinstance(o, GuardrailError))


def test_many_checks_go_to_the_pool_as_one_batch(bench: Bench) -> None:
    bench.guardian.check("warm up")
    before = bench.replica.count("score")
    bench.guardian.check_many([Check(f"text {i}") for i in range(20)])
    assert bench.replica.count("score") - before == 1


async def test_each_rail_has_its_control_token_and_calibration(bench: Bench) -> None:
    response = await both(bench, Check("a bomb", rail="output", query="why?"))
    assert response.risk == pytest.approx(1 / (1 + math.exp(-math.log(9) / 2)))
    assert bench.scored()[-1].input_ids[0] == LAYOUT.control("output")
    assert bench.guardian.check_response("why?", "a bomb").rail == "output"
    await both(bench, Check("x", rail="document"))
    assert bench.scored()[-1].input_ids[0] == LAYOUT.control("tool_output")


async def test_a_blocked_query_is_answered_by_the_model(bench: Bench) -> None:
    check = Check("how do i build a bomb")
    verdict = bench.guardian.check(check)
    for answer in (bench.guardian.respond(check, verdict), await bench.guardian.arespond(check, verdict)):
        assert answer == REFUSAL
    request = bench.decoded()[-1]
    assert request.input_ids[-2:] == (LAYOUT.label("S9"), LAYOUT.control("respond"))
    assert request.stop_ids == {LAYOUT.end_id}
    # What is shown was judged as an answer to the query.
    assert bench.scored()[-1].input_ids[0] == LAYOUT.control("output")


async def test_written_responses_take_no_decode(bench: Bench) -> None:
    guardian = Guardian(
        manifest=MANIFEST, tokenizer=bench.tokenizer, pool=bench.pool, model_key="tiny", responses="written"
    )
    check = Check("how do i build a bomb")
    verdict = guardian.check(check)
    answer = guardian.respond(check, verdict)
    assert answer == await guardian.arespond(check, verdict) == written(check, verdict)
    assert bench.decoded() == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"responses": "writen"}, r"none of model, written \(did you mean 'written'\?\)"),
        ({"responses": "written", "responder": allow_all()}, "pass one of the two"),
    ],
)
def test_a_wrong_choice_of_responses_is_refused(bench: Bench, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Guardian(manifest=MANIFEST, tokenizer=bench.tokenizer, pool=bench.pool, model_key="tiny", **settings)


def test_warming_up_judges_a_word(bench: Bench) -> None:
    bench.guardian.warm_up()
    [request] = bench.scored()
    assert bench.text_of(request) == "Hello"


def test_warming_up_tells_of_a_pool_that_is_not_open(tiny_base: Path) -> None:
    pool = InferencePool()
    bench = Bench(FastContentTokenizer(tiny_base / "tokenizer.json"), pool)
    with pytest.raises(PoolClosed):
        bench.guardian.warm_up()


async def test_texts_are_taken_where_checks_are(bench: Bench) -> None:
    outcomes = bench.guardian.check_many(["hello", Check("a bomb")])
    assert [one.harmful for one in outcomes if isinstance(one, Verdict)] == [False, True]
    assert len(await bench.guardian.acheck_many(["hello"])) == 1
    with pytest.raises(InputError, match="takes a list, got one str; use check"):
        bench.guardian.check_many("hello")


@pytest.mark.parametrize("made", ["First you take a bomb and then you do the rest", "", "No.", "   "])
async def test_an_unfit_response_is_replaced_by_a_written_one(bench: Bench, made: str) -> None:
    bench.response = made
    check = Check("how do i build a bomb")
    verdict = bench.guardian.check(check)
    for answer in (bench.guardian.respond(check, verdict), await bench.guardian.arespond(check, verdict)):
        assert answer != made.strip()
        assert is_written(answer)


async def test_other_languages_get_a_written_response_in_their_own(bench: Bench) -> None:
    check = Check("폭탄을 어떻게 만들어요? bomb")
    verdict = bench.guardian.check(check)
    answer = bench.guardian.respond(check, verdict)
    assert answer == await bench.guardian.arespond(check, verdict)
    assert any("\uac00" <= letter <= "\ud7a3" for letter in answer)
    assert bench.decoded() == []


def test_a_closed_pool_still_leaves_a_written_response(tiny_base: Path) -> None:
    with InferencePool() as pool:
        bench = Bench(FastContentTokenizer(tiny_base / "tokenizer.json"), pool)
        check = Check("how do i build a bomb")
        verdict = bench.guardian.check(check)
    assert len(bench.guardian.respond(check, verdict).split()) > 8


def test_self_harm_points_to_help(bench: Bench) -> None:
    bench.response = ""
    verdict = bench.guardian.check("bomb")
    crisis = Verdict(
        harmful=True, risk=0.9, threshold=0.5, hazards={"S11": 0.9}, hazard="S11", rail="input", guardian_id="x"
    )
    answer = bench.guardian.respond(Check("i want to end it"), crisis)
    assert "988" in answer or "emergency" in answer or "findahelpline" in answer
    assert verdict.hazard == "S9"


def test_context_informs_and_is_not_judged_again(bench: Bench) -> None:
    check = conversation([Message("user", "abc"), Message("assistant", "def"), Message("user", "ghi")])
    bench.guardian.check(check)
    ids = bench.scored()[-1].input_ids
    assert [i for i, token in enumerate(ids) if token == LAYOUT.control("turn")] == [4, 8]


GREETING = (Message("user", "abc"), Message("assistant", "def"))


@pytest.mark.parametrize("rail", ["input", "output"])
async def test_earlier_turns_do_not_change_the_name_of_a_harm(bench: Bench, rail: Rail) -> None:
    verdict = await both(bench, Check("drift bomb", rail=rail, context=GREETING))
    assert verdict.hazard == "S9"
    assert verdict.hazards["PI"] < 0.2 * verdict.risk
    assert sum(verdict.hazards.values()) == pytest.approx(verdict.risk)
    assert Policy(hazards={"PI": HazardRule(action="allow")}).action(verdict) == "block"


def test_the_name_is_asked_once_more_only_where_there_is_harm_and_a_past(bench: Bench) -> None:
    checks = [Check("hello", context=GREETING), Check("drift bomb"), Check("drift bomb", context=GREETING)]
    outcomes = bench.guardian.check_many(checks)
    assert [outcome.hazard for outcome in outcomes if isinstance(outcome, Verdict)] == ["S9"] * 3
    assert len(bench.scored()) == len(checks) + 1


def test_harm_that_only_the_earlier_turns_show_is_named_by_them(tiny_base: Path) -> None:
    family = OwnFamily(LAYOUT, FastContentTokenizer(tiny_base / "tokenizer.json"))
    s1, pi = LAYOUT.labels.index("S1"), LAYOUT.labels.index("PI")

    def row(safe: float, **others: float) -> list[float]:
        rest = {s1: others.get("S1", 1e-9), pi: others.get("PI", 1e-9), 0: safe}
        return [math.log(rest.get(i, 1e-9)) for i in range(len(LAYOUT.labels))]

    together = family.read([row(0.05, S1=0.9, PI=0.05)])
    named = family.name_harm(together, [row(0.99, PI=0.01)])
    assert named.risk == together.risk
    assert max(named.shares, key=named.shares.__getitem__) == "S1"


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_calibration_keeps_order_and_shares(temperature: float) -> None:
    logprobs = [math.log(p) for p in (0.3, 0.5, 0.2)]
    risk, hazards = calibrated(logprobs, ("safe", "S1", "S2"), Calibration(temperature=temperature))
    expected = 1 / (1 + (0.3 / 0.7) ** (1 / temperature))
    assert risk == pytest.approx(expected)
    assert hazards["S1"] / hazards["S2"] == pytest.approx(2.5)
    assert sum(hazards.values()) == pytest.approx(risk)


@pytest.mark.parametrize("logprobs", [(0.0, -1e9, -1e9), (-1e9, 0.0, -1e9), (-50.0, -50.0, 0.0)])
def test_certainty_stays_a_probability(logprobs: Sequence[float]) -> None:
    risk, hazards = calibrated(logprobs, ("safe", "S1", "S2"), Calibration(temperature=0.5))
    assert 0.0 <= risk <= 1.0
    assert all(0.0 <= p <= 1.0 for p in hazards.values())
