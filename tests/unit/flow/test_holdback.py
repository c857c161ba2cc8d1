"""The hold-back machine, driven by hand and by hypothesis: what leaves has been judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import ConfigError, GuardianError
from guardrail_plugin.core.policy import HazardRule, Policy
from guardrail_plugin.flow import (
    Allowed,
    Blocked,
    Failed,
    HoldBack,
    Outcome,
    Part,
    Rules,
    Uncheckable,
    Window,
    run_sync,
)
from guardrail_plugin.flow.windows import REACH_CHARS, reach
from guardrail_plugin.guardian.protocol import CheckOutcome
from guardrail_plugin.testing import ScriptedGuardian, verdict

SAFE = verdict(rail="output")
BAD = verdict(risk=0.9, hazard="S9", rail="output")
RULES = Rules(policy=Policy())


def machine(window: Any = "sentence", rules: Rules = RULES, **options: Any) -> HoldBack[str]:
    return HoldBack(window=Window(window), rules=rules, query="the query", **options)


def feed(held: HoldBack[str], *chunks: str) -> None:
    for chunk in chunks:
        held.add(chunk, Part(chunk))


def end(held: HoldBack[str], guardian: ScriptedGuardian | None = None) -> Outcome:
    outcome = run_sync(held.ending(), guardian or ScriptedGuardian({}))
    held.settled(outcome)
    return outcome


def texts(checks: Sequence[Check]) -> list[str]:
    return [check.text for check in checks]


def test_a_window_leaves_when_it_has_been_judged_and_not_before() -> None:
    held = machine()
    feed(held, "This is the first ", "sentence.", " And")
    assert held.take() == []
    [check] = held.wanted()
    assert (check.text, check.rail, check.query) == ("This is the first sentence. And", "output", "the query")
    feed(held, " the second")
    assert (held.take(), held.wanted(), held.waiting) == ([], (), True)
    held.judged([SAFE])
    assert held.take() == ["This is the first ", "sentence.", " And"]
    assert held.wanted() == ()
    held.end()
    assert texts(held.wanted()) == ["This is the first sentence. And the second"]
    assert not held.finished
    held.judged([SAFE])
    assert held.take() == []
    assert held.finished
    assert end(held) == Allowed("output", SAFE)
    assert held.take() == [" the second"]
    assert (held.windows, held.released_characters) == (2, len("This is the first sentence. And the second"))


def test_chunks_that_are_free_and_not_yet_taken_do_not_free_others() -> None:
    held = machine(1)
    feed(held, "a ", "b ")
    held.wanted()
    feed(held, "c ", "d ")
    held.judged([SAFE])
    assert texts(held.wanted()) == ["a b c d "]
    assert held.take() == ["a ", "b "]
    feed(held, "e ", "f ")
    held.judged([SAFE])
    assert held.take() == ["c ", "d "]


def test_a_block_stops_the_source_and_drops_what_is_held() -> None:
    held = machine()
    feed(held, "This is a fine sentence. ")
    held.wanted()
    held.judged([SAFE])
    assert held.take()
    feed(held, "This one is not fine at all. ", "And more")
    held.wanted()
    held.judged([BAD])
    assert held.stopped
    assert held.finished
    assert held.take() == []
    outcome = end(held, ScriptedGuardian({}, respond="No."))
    assert outcome == Blocked("output", "No.", BAD)
    assert held.take() == []


def test_an_answer_that_is_harmful_only_as_a_whole_keeps_its_last_window() -> None:
    held = machine()
    feed(held, "A first sentence here. ")
    held.wanted()
    held.judged([SAFE])
    assert held.take() == ["A first sentence here. "]
    feed(held, "last words")
    held.end()
    held.wanted()
    held.judged([BAD])
    assert isinstance(end(held), Blocked)
    assert held.take() == []


def test_a_long_answer_is_judged_within_reach_and_once_more_as_a_whole() -> None:
    held = machine(50)
    for number in range(300):
        feed(held, f"word{number} ")
        if checks := held.wanted():
            assert len(checks[0].text) <= REACH_CHARS + 50
            held.judged([SAFE])
    held.end()
    [whole] = held.wanted()
    assert whole.text == "".join(f"word{number} " for number in range(300))


def test_reach_begins_at_a_word_and_never_after_the_window() -> None:
    text = "word " * 1000
    start = reach(text, 4000)
    assert 0 < start <= 4000
    assert text[start] == " "
    assert reach("x" * 9000, 0) == 0  # a first window larger than the reach is read from its beginning
    assert reach("short", 3) == 0


def test_reasoning_is_judged_beside_the_answer_and_tool_calls_hold_everything() -> None:
    held = machine()
    held.add("r", Part(reasoning="I think about this for long. "))
    assert texts(held.wanted()) == ["I think about this for long. "]
    held.judged([SAFE])
    assert held.take() == ["r"]
    held.add("c", Part(acts=True))
    feed(held, "And here is a whole sentence. ")
    held.wanted()
    held.judged([SAFE])
    assert held.take() == []
    call = Check("delete {}", rail="tool_call")
    held.end([call])
    assert held.wanted() == (call,)
    held.judged([verdict(rail="tool_call")])
    assert isinstance(end(held), Allowed)
    assert held.take() == ["c", "And here is a whole sentence. "]


def test_optimistic_release_lets_text_out_at_once_and_never_a_tool_call() -> None:
    held = machine(release="optimistic")
    feed(held, "Any", "thing")
    assert held.take() == ["Any", "thing"]
    held.add("c", Part(acts=True))
    assert held.take() == []
    held.end([Check("call {}", rail="tool_call")])
    assert len(held.wanted()) == 2
    held.judged([SAFE, verdict(risk=0.9, hazard="PI", rail="tool_call")])
    assert isinstance(end(held), Blocked)
    assert held.take() == []


@pytest.mark.parametrize(
    ("on_failure", "kind"), [("block", Blocked), ("allow", Allowed), ("raise", Failed)], ids=["block", "allow", "raise"]
)
def test_on_failure_decides_when_a_window_gets_no_verdict(on_failure: Any, kind: type) -> None:
    held = machine(rules=Rules(policy=Policy(on_failure=on_failure)))
    error = GuardianError("down")
    feed(held, "This is the first sentence. ")
    held.wanted()
    held.judged([error])
    assert held.stopped == (kind is not Allowed)
    assert bool(held.take()) == (kind is Allowed)
    if kind is Allowed:
        held.end()
        assert held.wanted() == ()
    outcome = end(held)
    assert isinstance(outcome, kind)
    assert outcome.error is error


def test_escalation_without_anyone_to_ask_blocks_and_with_someone_asks_once_at_the_end() -> None:
    policy = Policy(hazards={"S9": HazardRule(action="escalate")})
    held = machine(rules=Rules(policy=policy))
    feed(held, "This is the first sentence. ")
    held.wanted()
    held.judged([BAD])
    assert held.stopped
    asked: list[str] = []

    def ask(_: object, check: Check) -> str:
        asked.append(check.text)
        return "allow"

    held = machine(rules=Rules(policy=policy, on_escalate=ask))
    feed(held, "This is the first sentence. ")
    held.wanted()
    held.judged([BAD])
    feed(held, "This is the second one, too. ")
    assert (held.stopped, held.take(), held.wanted()) == (False, [], ())
    held.end()
    held.wanted()
    held.judged([SAFE])
    assert isinstance(end(held), Allowed)
    assert asked == ["This is the first sentence. This is the second one, too. "]
    assert len(held.take()) == 2


@pytest.mark.parametrize("answer", ["allow", "block"])
def test_a_person_sees_every_part_of_a_stream_that_escalates(answer: str) -> None:
    asked: list[str] = []

    def ask(_: object, check: Check) -> str:
        asked.append(check.text)
        return answer if len(asked) == 3 else "allow"

    policy = Policy(hazards={"S9": HazardRule(action="escalate")})
    held = machine(rules=Rules(policy=policy, on_escalate=ask))
    feed(held, "This is the first sentence. ")
    held.wanted()
    held.judged([BAD])
    feed(held, "And more.")
    held.add("c", Part(acts=True))
    # The first call says nothing that the answer does not: it is another part all the same.
    held.end([Check("And more.", rail="tool_call"), Check("delete {}", rail="tool_call")])
    held.wanted()
    held.judged([BAD, *[verdict(risk=0.9, hazard="S9", rail="tool_call")] * 2])
    outcome = end(held)
    assert asked == ["This is the first sentence. And more.", "And more.", "delete {}"]
    assert isinstance(outcome, Allowed if answer == "allow" else Blocked)
    assert len(held.take()) == (3 if answer == "allow" else 0)


def test_an_empty_answer_needs_no_verdict_and_one_of_images_follows_on_uncheckable() -> None:
    held = machine()
    feed(held, "", " \n")
    held.end()
    assert held.wanted() == ()
    assert end(held) == Allowed("output")
    assert held.take() == ["", " \n"]
    held = machine()
    held.add("image", Part())
    held.end(nothing=Uncheckable("only image"))
    assert held.wanted() == ()
    assert isinstance(end(held), Blocked)
    assert held.take() == []


@pytest.mark.parametrize(
    ("setting", "held", "complete"),
    [
        ("sentence", "This is the end of it.", False),
        ("sentence", "This is the end of it. ", True),
        ("sentence", "It costs 3.14 of something", False),
        ("sentence", "1. ", False),
        ("sentence", "a line of a longer list\n", True),
        ("sentence", "他说这是一个相当长的句子的结尾了。", True),
        ("sentence", "x" * 400, True),
        (3, "one two", False),
        (3, "one two three", True),
        (3, "三个字", True),
        (3, "x" * 48, True),
        ("answer", "This is the end of it. " * 99, False),
    ],
)
def test_windows(setting: Any, held: str, complete: bool) -> None:
    assert Window(setting).complete(held) == complete


@pytest.mark.parametrize("setting", [0, -1, True, 1.5, None, "sentense"])
def test_wrong_windows_are_refused(setting: Any) -> None:
    with pytest.raises(ConfigError, match="window"):
        Window(setting)


@settings(max_examples=80, deadline=None)
@given(
    chunks=st.lists(st.text(alphabet="ab .\n!", min_size=0, max_size=12), max_size=40),
    window=st.sampled_from(["sentence", "answer", 1, 3, 8]),
    late=st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=45, max_size=45),
    harmful=st.sampled_from(["ab.", "bb", "a b", "zz", "a"]),
)
def test_no_character_leaves_that_no_allowed_check_has_covered(
    chunks: list[str], window: Any, late: list[tuple[int, bool]], harmful: str
) -> None:
    """Verdicts come late, by any number of chunks, and so do readers; harmful is what holds the harmful text."""
    held = machine(window)
    left, covered, text = "", "", ""
    out: tuple[Check, ...] = ()
    wait = 0

    def outcomes() -> list[CheckOutcome]:
        nonlocal covered
        bad = any(harmful in check.text for check in out)
        covered = covered if bad else max([covered, *texts(out)], key=len)
        return [BAD if harmful in check.text else SAFE for check in out]

    for chunk, (delay, reads) in zip(chunks, late, strict=False):
        if held.stopped:
            break
        held.add(chunk, Part(chunk))
        text += chunk
        if out and wait == 0:
            held.judged(outcomes())
            out = ()
        wait = max(wait - 1, 0)
        left += "".join(held.take()) if reads else ""
        if not out and not held.stopped and (asked := held.wanted()):
            out, wait = asked, delay
        left += "" if reads else "".join(held.take())
        assert covered.startswith(left)
    if out:
        held.judged(outcomes())
        out = ()
    left += "".join(held.take())
    assert covered.startswith(left)
    if not held.stopped:
        held.end()
        while asked := held.wanted():
            out = asked
            held.judged(outcomes())
    outcome = end(held)
    left += "".join(held.take())
    assert harmful not in left
    assert isinstance(outcome, Allowed) == (harmful not in text or not text.strip())
    if isinstance(outcome, Allowed):
        assert left == text
