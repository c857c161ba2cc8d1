"""The input rail's logic, stepped by hand: no driver, no guardian."""

from __future__ import annotations

from dataclasses import replace

import pytest

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import (
    BlockedError,
    ConfigError,
    GuardianError,
    GuardianTimeout,
    GuardrailError,
    InferenceError,
    InputError,
    MissingDependencyError,
    ModelNotFoundError,
    PoolClosed,
    ReplicaDead,
    VerdictParseError,
)
from guardrail_plugin.core.policy import HazardRule, OnFailure, Policy, RailRule
from guardrail_plugin.core.verdict import Verdict
from guardrail_plugin.flow import (
    Allowed,
    Answer,
    Blocked,
    Classify,
    Edited,
    Effect,
    Escalate,
    Failed,
    Judged,
    Outcome,
    Respond,
    Rules,
    Steps,
    Told,
    input_rail,
    output_rail,
)
from guardrail_plugin.flow.outcomes import describe
from guardrail_plugin.flow.rails import (
    BLOCKED_RESPONSE,
    TOO_LONG_ANSWER,
    UNCHECKABLE_BESIDE,
    UNCHECKABLE_RESPONSE,
    UNJUDGED_RESPONSE,
    Uncheckable,
)
from guardrail_plugin.flow.tool_rails import OUTPUT_TOO_LONG, OUTPUT_UNCHECKABLE, tool_output_rail
from guardrail_plugin.testing import verdict

CHECK = Check("a secret question")
HARMFUL = verdict(risk=0.9, hazard="S9")
HARMLESS = verdict(risk=0.1, hazard="S9")

NO_VERDICT = [
    GuardianError("down"),
    GuardianTimeout(30.0),
    VerdictParseError("rubbish"),
    PoolClosed("closed"),
    InferenceError("bad item"),
    ReplicaDead("gone"),
]
NOT_COVERED = [ConfigError("wrong"), MissingDependencyError("torch", extra="local"), ModelNotFoundError("nowhere")]


def step_through(flow: Steps[Outcome], *answers: Answer) -> tuple[list[Effect], Outcome]:
    """Send the answers and return the effects and the outcome. Fails if the flow wants fewer or more answers."""
    effects: list[Effect] = []
    script = iter(answers)
    try:
        effects.append(next(flow))
        for answer in script:
            effects.append(flow.send(answer))  # noqa: PERF401 - a generator would turn the end into an error
    except StopIteration as stop:
        assert list(script) == []
        outcome: Outcome = stop.value
        return effects, outcome
    raise AssertionError(f"the flow still waits for {effects[-1]}")


def test_a_harmless_text_is_judged_once_and_goes_on() -> None:
    effects, outcome = step_through(input_rail(CHECK, policy=Policy(timeout_s=7.0)), HARMLESS)
    assert effects == [Classify(CHECK, 7.0)]
    assert outcome == Allowed("input", HARMLESS)


def test_a_harmful_text_is_answered_by_the_responder() -> None:
    effects, outcome = step_through(input_rail(CHECK, policy=Policy(timeout_s=7.0)), HARMFUL, "Please talk to someone.")
    assert effects == [Classify(CHECK, 7.0), Respond(CHECK, HARMFUL, 7.0)]
    assert outcome == Blocked("input", "Please talk to someone.", HARMFUL, "block")


@pytest.mark.parametrize("answer", ["", " \n", GuardianError("the responder is down"), HARMFUL])
def test_a_responder_that_fails_does_not_lift_the_block(answer: Answer) -> None:
    _, outcome = step_through(input_rail(CHECK, policy=Policy()), HARMFUL, answer)
    assert outcome == Blocked("input", BLOCKED_RESPONSE, HARMFUL, "block")


def test_raise_on_block_asks_for_no_response() -> None:
    effects, outcome = step_through(input_rail(CHECK, policy=Policy(on_block="raise")), HARMFUL)
    assert len(effects) == 1
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, BlockedError)
    assert (outcome.error.verdict, outcome.error.rail) == (HARMFUL, "input")


def test_escalation_blocks_until_there_is_a_handler() -> None:
    policy = Policy(hazards={"S9": HazardRule(action="escalate")})
    _, outcome = step_through(input_rail(CHECK, policy=policy), HARMFUL, "A person will look at this.")
    assert outcome == Blocked("input", "A person will look at this.", HARMFUL, "escalate")


def test_the_rail_rule_of_the_policy_counts() -> None:
    policy = Policy(rails={"input": RailRule(threshold=0.05)})
    _, outcome = step_through(input_rail(CHECK, policy=policy), HARMLESS, "No.")
    assert isinstance(outcome, Blocked)


LONG = verdict(risk=0.1, hazard="S4", truncated=True)


@pytest.mark.parametrize(
    ("text", "response"),
    [
        ("the cat sat on the mat and ate fish", "Your message is too long for me to check in full. Please send a"),
        ("Bitte fasse das für mich zusammen: die Katze saß auf der Matte", "Ihre Nachricht ist zu lang"),
    ],
)
def test_a_text_that_is_only_too_long_is_accused_of_nothing(text: str, response: str) -> None:
    effects, outcome = step_through(input_rail(Check(text), policy=Policy()), LONG)
    assert len(effects) == 1  # the responder, which answers a hazard, is not asked
    assert isinstance(outcome, Blocked)
    assert outcome.response.startswith(response)
    assert outcome.verdict is not None
    assert outcome.verdict.hazard is None
    assert describe(outcome, policy_version="1")["acted_on"] == "truncated"


def test_a_block_for_length_that_raises_names_no_hazard() -> None:
    _, outcome = step_through(input_rail(CHECK, policy=Policy(on_block="raise")), LONG)
    assert isinstance(outcome, Failed)
    assert str(outcome.error) == "blocked by the input rail"


def test_a_long_text_that_is_also_harmful_is_answered_by_its_hazard() -> None:
    both = verdict(risk=0.9, hazard="S4", truncated=True)
    effects, _ = step_through(input_rail(CHECK, policy=Policy(timeout_s=7.0)), both, "No.")
    assert effects[-1] == Respond(CHECK, both, 7.0)


def test_an_answer_or_a_tools_output_that_is_too_long_says_so() -> None:
    answer = Check("a long answer", rail="output")
    judged = verdict(risk=0.1, hazard="S4", rail="output", truncated=True)
    _, outcome = step_through(
        output_rail([answer], asked=None, rules=Rules(policy=Policy())), Judged(outcomes=(judged,))
    )
    assert outcome == Blocked("output", TOO_LONG_ANSWER, replace(judged, hazard=None))
    page = verdict(risk=0.1, hazard="PI", rail="tool_output", truncated=True)
    flow = tool_output_rail(Check("a long page", rail="tool_output"), rules=Rules(policy=Policy()))
    _, outcome = step_through(flow, page)
    assert outcome == Blocked("tool_output", OUTPUT_TOO_LONG, replace(page, hazard=None))


def test_where_nobody_reads_the_response_the_responder_is_not_asked() -> None:
    effects, outcome = step_through(input_rail(CHECK, policy=Policy(timeout_s=7.0), respond=False), HARMFUL)
    assert effects == [Classify(CHECK, 7.0)]
    assert outcome == Blocked("input", BLOCKED_RESPONSE, HARMFUL)


@pytest.mark.parametrize(
    ("policy", "judged", "threshold", "acted_on"),
    [
        (Policy(threshold=0.02), verdict(risk=0.148, hazard="S9"), 0.02, "risk"),
        (Policy(hazards={"S9": HazardRule(threshold=0.8)}), HARMFUL, 0.8, "S9"),
        (Policy(threshold=0.02), verdict(risk=0.01, hazard="S9"), 0.02, None),
        (Policy(), LONG, LONG.threshold, "truncated"),
    ],
)
def test_the_record_tells_what_the_policy_acted_on(
    policy: Policy, judged: Verdict, threshold: float, acted_on: str | None
) -> None:
    answers = ["No."] if acted_on not in (None, "truncated") else []
    _, outcome = step_through(input_rail(CHECK, policy=policy), judged, *answers)
    told = describe(outcome, policy_version="1")
    assert (told["policy_threshold"], told["acted_on"]) == (threshold, acted_on)
    assert told["threshold"] == judged.threshold  # the guardian's own stays beside it


@pytest.mark.parametrize("error", NO_VERDICT, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("on_failure", ["block", "allow", "raise"])
def test_on_failure_decides_when_there_is_no_verdict(on_failure: OnFailure, error: GuardrailError) -> None:
    effects, outcome = step_through(input_rail(CHECK, policy=Policy(on_failure=on_failure)), error)
    expected: dict[str, Outcome] = {
        "block": Blocked("input", UNJUDGED_RESPONSE, None, "block", error),
        "allow": Allowed("input", None, error),
        "raise": Failed("input", error),
    }
    assert outcome == expected[on_failure]
    assert len(effects) == 1  # a guardian that gave no verdict is not asked for a response


def test_a_failure_that_blocks_raises_when_blocks_raise() -> None:
    error = GuardianError("down")
    _, outcome = step_through(input_rail(CHECK, policy=Policy(on_block="raise")), error)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, BlockedError)
    assert outcome.error.verdict is None
    assert outcome.error.__cause__ is error


@pytest.mark.parametrize("error", NOT_COVERED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("on_failure", ["block", "allow", "raise"])
def test_mistakes_of_the_caller_are_raised_whatever_on_failure_says(
    on_failure: OnFailure, error: GuardrailError
) -> None:
    _, outcome = step_through(input_rail(CHECK, policy=Policy(on_failure=on_failure)), error)
    assert outcome == Failed("input", error)


def test_text_in_place_of_a_verdict_counts_as_none() -> None:
    _, outcome = step_through(input_rail(CHECK, policy=Policy()), "safe")
    assert isinstance(outcome, Blocked)
    assert isinstance(outcome.error, GuardianError)


@pytest.mark.parametrize("on_uncheckable", ["block", "allow", "raise"])
def test_on_uncheckable_decides_when_there_is_no_text(on_uncheckable: OnFailure) -> None:
    # The other switch must not matter.
    policy = Policy(on_failure="allow" if on_uncheckable == "block" else "block")
    effects, outcome = step_through(input_rail(Uncheckable("only image"), policy=policy, on_uncheckable=on_uncheckable))
    assert effects == []
    assert isinstance(outcome.error, InputError)
    assert str(outcome.error) == "only image"
    assert type(outcome) is {"block": Blocked, "allow": Allowed, "raise": Failed}[on_uncheckable]
    assert not isinstance(outcome, Blocked) or outcome.response == UNCHECKABLE_RESPONSE


@pytest.mark.parametrize("on_uncheckable", ["block", "allow", "raise"])
def test_what_stands_beside_text_is_told_as_such(on_uncheckable: OnFailure) -> None:
    subject = Uncheckable("an image", beside=True)
    _, outcome = step_through(input_rail(subject, policy=Policy(), on_uncheckable=on_uncheckable))
    assert type(outcome) is {"block": Blocked, "allow": Allowed, "raise": Failed}[on_uncheckable]
    assert not isinstance(outcome, Blocked) or outcome.response == UNCHECKABLE_BESIDE


@pytest.mark.parametrize("order", [1, -1])
def test_a_hazard_that_was_found_speaks_before_a_part_that_is_too_long(order: int) -> None:
    policy = Policy(hazards={"S9": HazardRule(threshold=0.1)})
    found = verdict(risk=0.2, hazard="S9", rail="output")
    long = verdict(risk=0.3, rail="output", truncated=True)
    checks = [Check("found", rail="output"), Check("long", rail="output")][::order]
    flow = output_rail(checks, asked=None, rules=Rules(policy=policy, respond=False))
    _, outcome = step_through(flow, Judged(outcomes=tuple([found, long][::order])))
    assert isinstance(outcome, Blocked)
    assert (outcome.response, outcome.verdict) == (BLOCKED_RESPONSE, found)


@pytest.mark.parametrize(
    ("answers", "kind", "asked"),
    [
        (["allow", "allow"], Allowed, ["worse", "bad"]),
        (["allow", "block"], Blocked, ["worse", "bad"]),
        (["allow", "Another text."], Edited, ["worse", "bad"]),
        (["block"], Blocked, ["worse"]),
    ],
)
def test_a_person_is_asked_about_each_part_that_escalates(answers: list[str], kind: type, asked: list[str]) -> None:
    """Who allows one part of an answer has not seen the others."""
    policy = Policy(rails={"output": RailRule(action="escalate")})
    outcomes = tuple(verdict(risk=risk, rail="output") for risk in (0.7, 0.1, 0.9))
    checks = [Check(text, rail="output") for text in ("bad", "fine", "worse")]
    rules = Rules(policy=policy, on_escalate=lambda *_: "", respond=False)
    flow = output_rail(checks, asked=None, rules=rules)
    effects, outcome = step_through(flow, Judged(outcomes), *(Told(answer) for answer in answers))
    assert isinstance(outcome, kind)
    assert [effect.check.text for effect in effects if isinstance(effect, Escalate)] == asked


@pytest.mark.parametrize("on_uncheckable", ["block", "allow", "raise"])
def test_a_file_in_an_output_needs_no_verdict_to_be_withheld(on_uncheckable: OnFailure) -> None:
    # Neither other switch must matter, and no error may quote the output.
    policy = Policy(on_failure="allow" if on_uncheckable == "block" else "block", on_block="raise")
    rules = Rules(policy=policy, on_uncheckable=on_uncheckable)
    effects, outcome = step_through(tool_output_rail(Check("", rail="tool_output"), rules=rules, files=("file",)))
    assert effects == []
    assert isinstance(outcome.error, InputError)
    assert type(outcome) is {"block": Blocked, "allow": Allowed, "raise": Failed}[on_uncheckable]
    assert not isinstance(outcome, Blocked) or outcome.response == OUTPUT_UNCHECKABLE


def test_a_guardian_that_finds_no_text_is_uncheckable_too() -> None:
    flow = input_rail(CHECK, policy=Policy(on_failure="allow"), on_uncheckable="block")
    _, outcome = step_through(flow, InputError("nothing left after normalisation"))
    assert isinstance(outcome, Blocked)


@pytest.mark.parametrize("on_uncheckable", ["block", "allow", "raise"])
def test_an_input_that_cannot_be_read_is_always_raised(on_uncheckable: OnFailure) -> None:
    error = InputError("pass input_key")
    _, outcome = step_through(input_rail(error, policy=Policy(on_failure="allow"), on_uncheckable=on_uncheckable))
    assert outcome == Failed("input", error)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Allowed("input", HARMLESS), {"action": "allow", "risk": 0.1, "harmful": False, "error": None}),
        (Allowed("input", None, GuardianTimeout(3)), {"action": "allow", "risk": None, "error": "GuardianTimeout"}),
        (Blocked("input", "text", HARMFUL), {"action": "block", "hazard": "S9", "error": None}),
        (Blocked("input", "text", HARMFUL, "escalate"), {"action": "escalate", "hazards": {"S9": 0.9}}),
        (Failed("input", BlockedError(HARMFUL, rail="input"), HARMFUL), {"action": "block", "error": None}),
        (Failed("input", PoolClosed("closed")), {"action": "block", "hazard": None, "error": "PoolClosed"}),
    ],
)
def test_describe_gives_fields_and_no_text(outcome: Outcome, expected: dict[str, object]) -> None:
    fields = describe(outcome, policy_version="v7")
    assert expected.items() <= fields.items()
    assert (fields["rail"], fields["policy_version"]) == ("input", "v7")
    assert "text" not in repr(fields)


def test_repr_of_effects_and_outcomes_hides_text() -> None:
    shown = repr([Classify(CHECK, 1.0), Respond(CHECK, HARMFUL, 1.0), Blocked("input", "a secret answer", HARMFUL)])
    assert "secret" not in shown
