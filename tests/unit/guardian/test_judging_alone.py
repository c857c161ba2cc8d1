"""Hazards that a family judges one by one: each by its own risk, whatever a policy says about the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from guardrail_plugin.core.errors import VerdictParseError
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.core.verdict import Verdict
from guardrail_plugin.guardian.families import family_kind
from guardrail_plugin.guardian.families.characters import CharacterTokenizer
from guardrail_plugin.guardian.families.classifier import ClassifierFamily, Head
from guardrail_plugin.guardian.families.protocol import Checkpoint, Family, FamilyOptions, Kit, Reading
from guardrail_plugin.guardian.guardian import Guardian
from guardrail_plugin.guardian.manifest import Calibration
from guardrail_plugin.pool import ScoreRequest, ScoreResult


class Pool:
    """Stands for the pool: answers by one function."""

    def __init__(self, logprobs: Any) -> None:
        self.logprobs = logprobs

    def score_many(self, requests: Sequence[ScoreRequest], *, timeout_s: float | None) -> list[ScoreResult]:
        return [ScoreResult(tuple(self.logprobs(request))) for request in requests]


def multi(codes: Mapping[str, str | None]) -> Family:
    """A classifier that judges each of its classes alone."""
    kit = Kit(checkpoint=Checkpoint("g"), tokenizer=CharacterTokenizer())
    return ClassifierFamily(kit, "classifier", Head(codes, multi_label=True))


def separately(*risks: float) -> Any:
    """Log-probabilities of a multi-label head's classes, and of the logit of zero behind them."""
    logits = [*(math.log(p / (1 - p)) for p in risks), 0.0]
    total = math.log(math.fsum(map(math.exp, logits)))
    return lambda _: [logit - total for logit in logits]


def yes(risks: Mapping[str, float]) -> Any:
    """Says yes to what a question names, as often as told, in all its spellings alike."""

    def answer(request: ScoreRequest) -> list[float]:
        question = CharacterTokenizer().prompt(request.input_ids)
        p = next((risk for name, risk in risks.items() if name in question), 1e-6)
        spellings = len(request.label_ids) // 2
        return [math.log(p / spellings)] * spellings + [math.log((1 - p) / spellings)] * spellings

    return answer


def judged(family: Family, answer: Any, text: str = "x", **calibration: Calibration) -> Verdict:
    known: dict[Any, Calibration] = dict(calibration)
    pool: Any = Pool(answer)
    verdict = Guardian(family=family, pool=pool, model_key="m", calibration=known).check(text)
    assert all(math.fsum(one.hazards.values()) <= one.risk + 1e-9 for one in (verdict, *verdict.members))
    assert all(one.risk <= verdict.risk for one in verdict.members)
    return verdict


def decided(verdict: Verdict, hazards: dict[str, Any]) -> tuple[str, str | None]:
    policy = Policy(hazards=hazards)
    return policy.action(verdict), policy.deciding(verdict).hazard


@pytest.mark.parametrize(
    ("hazards", "decision"),
    [
        ({}, ("block", "S1")),
        ({"S1": {"threshold": 0.8}}, ("block", "S1")),
        ({"S2": {"threshold": 0.8}}, ("block", "S1")),
        ({"S1": {"action": "allow"}}, ("block", "S2")),
        ({"S2": {"action": "allow"}}, ("block", "S1")),
        ({"S1": {"action": "allow"}, "S2": {"threshold": 0.8}}, ("block", "S2")),
        ({"S1": {"action": "allow"}, "S2": {"threshold": 0.99}}, ("allow", "S1")),
        ({"S1": {"action": "allow"}, "S2": {"action": "allow"}}, ("allow", "S1")),
    ],
)
def test_hazards_that_are_judged_alone_take_nothing_from_each_other(
    hazards: dict[str, Any], decision: tuple[str, str | None]
) -> None:
    verdict = judged(multi({"a": "S1", "b": "S2"}), separately(0.95, 0.95))
    assert (verdict.harmful, verdict.hazard, verdict.native_label) == (True, "S1", "a")
    assert verdict.risk == pytest.approx(0.95)
    [other] = verdict.members
    assert (other.harmful, other.hazard, other.native_label) == (True, "S2", "b")
    assert (other.risk, other.hazards["S2"]) == (pytest.approx(0.95), pytest.approx(0.95))
    assert decided(verdict, hazards) == decision


def test_many_unlikely_hazards_do_not_add_up_to_a_likely_one() -> None:
    codes: dict[str, str | None] = {code: code for code in ("S1", "S2", "S3", "S4", "S6", "S7", "S8", "S9", "S10")}
    verdict = judged(multi(codes), separately(0.95, *[0.2] * 8))
    assert decided(verdict, {"S1": {"action": "allow"}}) == ("allow", "S1")
    assert decided(verdict, {"S1": {"action": "allow"}, "S9": {"threshold": 0.19}}) == ("block", "S9")


@pytest.mark.parametrize(
    ("risks", "members"), [((0.3, 0.2), ["S2"]), ((0.2, 0.3), ["S1"]), ((0.3, 0.04), []), ((0.04, 0.03), [])]
)
def test_what_is_below_the_threshold_stays_there(risks: tuple[float, float], members: list[str]) -> None:
    verdict = judged(multi({"a": "S1", "b": "S2"}), separately(*risks))
    assert (verdict.harmful, verdict.hazard) == (False, "S1" if risks[0] > risks[1] else "S2")
    assert verdict.risk == pytest.approx(max(risks))
    assert [one.hazard for one in verdict.members] == members
    assert Policy().action(verdict) == "allow"


@pytest.mark.parametrize(
    ("hazards", "decision"),
    [
        ({}, ("block", "S10")),
        ({"S10": {"action": "allow"}}, ("block", "S1")),
        ({"S10": {"threshold": 0.89, "action": "escalate"}, "S1": {"action": "allow"}}, ("block", None)),
        ({"S10": {"action": "allow"}, "S1": {"action": "allow"}}, ("block", None)),
    ],
)
def test_labels_that_share_a_code_are_one_hazard_and_one_without_a_code_is_allowed_by_no_rule(
    hazards: dict[str, Any], decision: tuple[str, str | None]
) -> None:
    family = multi({"hate": "S10", "insult": "S10", "toxic": None, "threat": "S1"})
    verdict = judged(family, separately(0.9, 0.8, 0.97, 0.6))
    assert (verdict.risk, verdict.hazard, verdict.native_label) == (pytest.approx(0.97), None, "toxic")
    assert verdict.hazards["S10"] == pytest.approx(0.9)
    found = {one.native_label: (one.risk, dict(one.hazards)) for one in verdict.members}
    assert found == {
        "threat": (pytest.approx(0.6), {"S1": pytest.approx(0.6)}),
        "toxic": (pytest.approx(0.97), {}),
    }
    assert decided(verdict, hazards) == decision


def test_each_risk_of_its_own_is_calibrated() -> None:
    calibration = Calibration(temperature=2.0, threshold=0.7)
    verdict = judged(multi({"a": "S1", "b": "S2"}), separately(0.95, 0.8), input=calibration)
    [other] = verdict.members
    assert (verdict.risk, verdict.harmful) == (pytest.approx(1 / (1 + math.sqrt(0.05 / 0.95))), True)
    assert (other.risk, other.harmful) == (pytest.approx(2 / 3), False)
    assert other.hazards["S2"] == other.risk
    assert decided(verdict, {"S1": {"action": "allow"}}) == ("allow", "S1")
    assert decided(verdict, {"S1": {"action": "allow"}, "S2": {"threshold": 0.66}}) == ("block", "S2")


def test_of_several_windows_each_harm_counts_where_it_is_likeliest() -> None:
    texts = {"adult": (0.95, 0.6), "bomb": (0.1, 0.9)}

    def answer(request: ScoreRequest) -> list[float]:
        seen = CharacterTokenizer().prompt(request.input_ids)
        risks = next((risks for word, risks in texts.items() if word in seen), (1e-6, 1e-6))
        found: list[float] = separately(*risks)(request)
        return found

    text = "adult " + "and so on, " * 100 + "bomb"
    verdict = judged(multi({"a": "S12", "b": "S9"}), answer, text)
    assert verdict.windows >= 2
    assert (verdict.hazard, [one.hazard for one in verdict.members]) == ("S12", ["S9"])
    assert verdict.members[0].risk == pytest.approx(0.9)
    assert decided(verdict, {"S12": {"action": "allow"}}) == ("block", "S9")


@pytest.mark.parametrize(
    ("hazards", "decision"),
    [
        ({}, ("block", "S1")),
        ({"S1": {"threshold": 0.8}}, ("block", "S1")),
        ({"S1": {"action": "allow"}}, ("block", "S10")),
        ({"S1": {"action": "allow"}, "S10": {"threshold": 0.91}}, ("allow", "S1")),
    ],
)
def test_shieldgemmas_guidelines_are_judged_alone(hazards: dict[str, Any], decision: tuple[str, str | None]) -> None:
    kit = Kit(checkpoint=Checkpoint("shieldgemma-2b"), tokenizer=CharacterTokenizer())
    answer = yes({'"No Dangerous Content"': 0.95, '"No Hate Speech"': 0.9, '"No Harassment"': 0.85})
    verdict = judged(family_kind("shieldgemma").build(kit), answer)
    assert (verdict.risk, verdict.hazard) == (pytest.approx(0.95), "S1")
    [other] = verdict.members
    assert (other.risk, other.hazard, other.native_label) == (pytest.approx(0.9), "S10", "Hate Speech")
    assert decided(verdict, hazards) == decision


def granite(hazards: tuple[str, ...] | None = None) -> Family:
    def template(messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        turns = "".join(f"{message['role']}: {message['content']}\n" for message in messages)
        return f"{turns}Risk: {options['guardian_config']['risk_name']}\n"

    checkpoint, options = Checkpoint("granite-guardian-3.1-2b"), FamilyOptions(hazards=hazards)
    kit = Kit(checkpoint=checkpoint, tokenizer=CharacterTokenizer(), template=template, options=options)
    return family_kind("granite-guardian").build(kit)


@pytest.mark.parametrize("asked", [("S1", "S2"), None])
@pytest.mark.parametrize(
    ("hazards", "decision"),
    [
        ({}, ("block", "S1")),
        ({"S1": {"threshold": 0.8}}, ("block", "S1")),
        ({"S1": {"action": "allow"}}, ("block", "S2")),
        ({"S1": {"action": "allow"}, "S2": {"action": "allow"}}, ("allow", "S1")),
    ],
)
def test_granites_risks_are_judged_alone_whether_they_decide_or_name_the_harm(
    asked: tuple[str, ...] | None, hazards: dict[str, Any], decision: tuple[str, str | None]
) -> None:
    answer = yes({"Risk: harm": 0.96, "Risk: violence": 0.95, "Risk: unethical_behavior": 0.94})
    verdict = judged(granite(asked), answer)
    assert verdict.risk == pytest.approx(0.95 if asked else 0.96)
    assert (verdict.hazard, verdict.hazards["S1"]) == ("S1", pytest.approx(0.95))
    [other] = verdict.members
    assert (other.hazard, other.hazards["S2"]) == ("S2", pytest.approx(0.94))
    assert decided(verdict, hazards) == decision


def test_a_hazard_that_explains_part_of_granites_harm_takes_only_that_part_along() -> None:
    verdict = judged(granite(), yes({"Risk: harm": 0.9, "Risk: violence": 0.3}))
    assert (verdict.risk, verdict.hazard) == (pytest.approx(0.9), "S1")
    assert verdict.hazards["S1"] == pytest.approx(0.3)
    assert decided(verdict, {"S1": {"action": "allow"}})[0] == "block"


def test_naming_granites_harm_makes_it_no_likelier() -> None:
    verdict = judged(granite(), yes({"Risk: harm": 0.4, "Risk: violence": 0.9, "Risk: social_bias": 0.8}))
    assert (verdict.harmful, verdict.hazard) == (False, "S1")
    assert verdict.risk == pytest.approx(0.4)
    assert verdict.hazards["S1"] == pytest.approx(0.4)
    assert [(one.hazard, one.risk) for one in verdict.members] == [("S10", verdict.risk)]
    assert Policy().action(verdict) == "allow"


@pytest.mark.parametrize("wrong", [math.nan, -0.1, 1.5])
def test_risks_of_their_own_that_are_no_probabilities_are_no_verdict(wrong: float) -> None:
    class Broken(ClassifierFamily):
        def read(self, answers: Sequence[Sequence[float]]) -> Reading:
            return Reading(0.3, {"a": 0.3, "b": wrong}, independent=True)

    kit = Kit(checkpoint=Checkpoint("g"), tokenizer=CharacterTokenizer())
    family = Broken(kit, "classifier", Head({"a": "S1", "b": "S2"}, multi_label=True))
    with pytest.raises(VerdictParseError):
        judged(family, separately(0.3, 0.3))
