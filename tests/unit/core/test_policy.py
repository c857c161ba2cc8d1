from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.policy import HazardRule, Policy, RailRule, Ruling
from guardrail_plugin.core.verdict import Action, Rail, Verdict


def verdict(
    risk: float, *, rail: Rail = "input", threshold: float = 0.5, truncated: bool = False, **hazards: float
) -> Verdict:
    return Verdict(
        harmful=risk >= threshold,
        risk=risk,
        threshold=threshold,
        hazards=hazards,
        hazard=max(hazards, key=hazards.__getitem__, default=None),
        rail=rail,
        guardian_id="test",
        truncated=truncated,
    )


STRICT_S6 = Policy(hazards={"S6": HazardRule(threshold=0.9)})
ALLOWED = HazardRule(action="allow")
NO_S12 = Policy(hazards={"S12": ALLOWED})
ESCALATE_S7 = Policy(hazards={"S7": HazardRule(action="escalate")})


@pytest.mark.parametrize(
    ("policy", "given", "expected"),
    [
        (Policy(), verdict(0.5, S1=0.5), "block"),
        (Policy(), verdict(0.499, S1=0.499), "allow"),
        (Policy(threshold=0.8), verdict(0.7, S1=0.7), "allow"),
        (Policy(threshold=0.2), verdict(0.3, S1=0.3), "block"),
        (Policy(threshold=0.0), verdict(0.0), "block"),
        (Policy(), verdict(0.3, threshold=0.25, S1=0.3), "block"),
        (Policy(rails={"output": RailRule(threshold=0.9)}), verdict(0.6, rail="output", S1=0.6), "allow"),
        (Policy(rails={"output": RailRule(threshold=0.9)}), verdict(0.6, S1=0.6), "block"),
        (Policy(rails={"document": RailRule(action="escalate")}), verdict(0.9, rail="document", PI=0.9), "escalate"),
        (STRICT_S6, verdict(0.7, S6=0.7), "allow"),
        (STRICT_S6, verdict(0.95, S6=0.95), "block"),
        (STRICT_S6, verdict(0.9, S6=0.3, S1=0.6), "block"),
        (NO_S12, verdict(0.99, S12=0.99), "allow"),
        (NO_S12, verdict(0.99, S12=0.4, S3=0.59), "block"),
        (ESCALATE_S7, verdict(0.9, S7=0.9), "escalate"),
        (ESCALATE_S7, verdict(0.9, S7=0.2, S1=0.7), "block"),
        (Policy(), verdict(0.1, truncated=True, S1=0.1), "block"),
        (Policy(on_truncated="allow"), verdict(0.1, truncated=True, S1=0.1), "allow"),
        (Policy(on_truncated="allow"), verdict(0.9, truncated=True, S1=0.9), "block"),
    ],
)
def test_action(policy: Policy, given: Verdict, expected: Action) -> None:
    assert policy.action(given) == expected


@pytest.mark.parametrize(
    ("policy", "given", "expected"),
    [
        (Policy(threshold=0.02), verdict(0.148, S1=0.148), Ruling("block", 0.02, "risk")),
        (Policy(), verdict(0.1, S1=0.1), Ruling("allow", 0.5)),
        (STRICT_S6, verdict(0.95, S6=0.95), Ruling("block", 0.9, "hazard", "S6")),
        (STRICT_S6, verdict(0.99, S6=0.3, S1=0.69), Ruling("block", 0.5, "risk")),
        (Policy(), verdict(0.1, truncated=True, S1=0.1), Ruling("block", 0.5, "truncated")),
        (Policy(), verdict(0.9, truncated=True, S1=0.9), Ruling("block", 0.5, "risk")),
        (ESCALATE_S7, verdict(0.9, truncated=True, S7=0.9), Ruling("block", 0.5, "risk")),
    ],
)
def test_ruling_tells_what_was_acted_on(policy: Policy, given: Verdict, expected: Ruling) -> None:
    assert policy.ruling(given) == expected


@pytest.mark.parametrize("source", ["policy.toml", " conf/my.policy.toml\n"])
def test_the_name_of_a_file_is_not_taken_for_toml(source: str) -> None:
    with pytest.raises(ConfigError, match=r"read as TOML text; for the file write Path\("):
        Policy.from_toml(source)


def test_a_policy_of_one_line_may_end_like_a_file() -> None:
    assert Policy.from_toml("version = 'from pol.toml' # pol.toml").version == "from pol.toml"


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("on_blok = 'raise'", ["unknown key 'on_blok'", "did you mean 'on_block'?"]),
        ("on_block = 'rais'", ["on_block", "'respond' or 'raise'"]),
        ("[rials.input]\nthreshold = 0.5", ["unknown key 'rials'", "did you mean 'rails'?"]),
        ("[rails.inputt]\nthreshold = 0.5", ["rails.inputt"]),
        ("[rails.input]\ntreshold = 0.5", ["unknown key 'rails.input.treshold'", "did you mean 'threshold'?"]),
        ("[hazards.S6]\nacton = 'allow'", ["unknown key 'hazards.S6.acton'", "did you mean 'action'?"]),
        ("[hazards.S99]\naction = 'allow'", ["unknown hazard code 'S99'", "did you mean 'S9'?"]),
        ("threshold = 1.5", ["threshold", "less than or equal to 1"]),
        ("threshold = nan", ["threshold", "finite"]),
        ("timeout_s = 0", ["timeout_s", "greater than 0"]),
        ("threshold = ", ["not valid TOML"]),
        ("self = 1", ["unknown key 'self'"]),
        (f"version = {'[' * 5000}", ["not valid TOML"]),
    ],
)
def test_a_wrong_file_is_an_error_that_names_the_place(toml: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Policy.from_toml(toml)
    for word in words:
        assert word in str(caught.value)


def test_reads_a_file(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(
        'version = "2026-11"\non_failure = "raise"\n[rails.output]\nthreshold = 0.7\n[hazards.S12]\naction = "allow"\n'
    )
    policy = Policy.from_toml(file)
    assert policy.version == "2026-11"
    assert policy.on_failure == "raise"
    assert policy.rails["output"].threshold == 0.7
    assert policy.hazards["S12"].action == "allow"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: No such file"):
        Policy.from_toml(tmp_path / "nowhere.toml")


def test_a_policy_cannot_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Policy().on_block = "raise"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("policy", "told", "action"),
    [
        (Policy(), ("S12", 0.9), "block"),
        (NO_S12, ("S11", 0.8), "block"),
        (
            Policy(hazards={"S12": HazardRule(action="allow"), "S11": HazardRule(action="escalate")}),
            ("S11", 0.8),
            "escalate",
        ),
        (Policy(hazards={"S12": HazardRule(action="allow"), "S11": HazardRule(action="allow")}), ("S12", 0.9), "allow"),
    ],
)
def test_what_decides_is_told(policy: Policy, told: tuple[str, float], action: Action) -> None:
    part = replace(verdict(0.8, S11=0.8), seconds=1.0, guardian_id="part")
    whole = replace(verdict(0.9, S12=0.9), seconds=2.0, windows=3, members=(part,), incomplete=True)
    found = policy.deciding(whole)
    assert (found.hazard, found.risk) == told
    assert (found.guardian_id, found.seconds, found.windows, found.incomplete) == ("test", 2.0, 3, True)
    assert policy.deciding(found) is found
    allowing = policy.model_copy(update={"on_failure": "allow"})
    assert allowing.action(whole) == allowing.action(found) == action


def test_a_harm_says_more_than_a_text_that_was_too_long() -> None:
    whole = replace(verdict(0.9, S12=0.9, truncated=True), members=(verdict(0.8, S9=0.8, truncated=True),))
    assert NO_S12.deciding(whole).hazard == "S9"
    assert NO_S12.ruling(whole).cause == "risk"


def test_the_hazard_that_decides_is_named() -> None:
    both = verdict(0.95, S10=0.6, S9=0.35)
    told = Policy(threshold=0.3, hazards={"S10": ALLOWED, "S9": HazardRule(threshold=0.3)}).deciding(both)
    assert (both.hazard, told.hazard) == ("S10", "S9")
    assert Policy(threshold=0.3, hazards={"S10": ALLOWED}).deciding(both).hazard == "S9"
    assert Policy().deciding(both) is both
