"""Sexual content that speaks of minors counts as child exploitation, whatever a policy allows between adults."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from guardrail_plugin.core.conversation import Check, Message
from guardrail_plugin.guardian.minors import speaks_of_minors, spoken, with_minors

YOUNG = [
    "about a 12-year-old",
    "she is 15 years old",
    "a 9 yo",
    "aged 16",
    "twelve-year-old",
    "a schoolgirl",
    "underage",
    "two teenagers",
    "my kids",
    "eine Geschichte mit Kindern",
    "una niña",
    "12살 아이",
    "未成年",
    "ребёнок",
    "14歳",
    "13 ans",
]
GROWN = [
    "about a 32-year-old",
    "two adults aged 25",
    "she is 18 years old",
    "a colleague from accounting",
    "room 12",
    "5 minutes",
    "the years 2012 to 2015",
]


@pytest.mark.parametrize("text", YOUNG)
def test_words_and_ages_of_minors(text: str) -> None:
    assert speaks_of_minors(text)


@pytest.mark.parametrize("text", GROWN)
def test_adults_are_none(text: str) -> None:
    assert not speaks_of_minors(text)


def test_the_share_moves_only_where_the_text_is_sexual_in_the_first_place() -> None:
    sexual = {"S12": 0.8, "S4": 0.1, "S1": 0.05}
    assert with_minors(sexual, ["a 12-year-old"]) == pytest.approx({"S12": 0.0, "S4": 0.9, "S1": 0.05})
    assert with_minors(sexual, ["two adults"]) == sexual
    violent = {"S12": 0.1, "S1": 0.8}
    assert with_minors(violent, ["a 12-year-old"]) == violent
    assert with_minors({}, ["a 12-year-old"]) == {}


def user(*turns: str) -> tuple[Message, ...]:
    return tuple(Message("user", turn) for turn in turns)


@pytest.mark.parametrize(
    ("check", "young"),
    [
        (Check("an erotic story about her", context=user("Mia is 14 years old.", "She likes chess.")), True),
        (Check("an erotic story about her", context=user("Mia is fourteen ye\u200bars old.")), True),
        (Check("years old. An erotic story about her", context=user("Mia is 14")), True),
        (Check("an erotic story", rail="output", query="A story about a 14-year-old"), True),
        (Check("an erotic story", rail="output", query="Go on", context=user("She is 14 years old.")), True),
        (Check("an erotic story about two adults", context=user("How does my old school heat its rooms?")), False),
        (Check("an erotic story about her", context=user("Anna is 34 years old.")), False),
        (Check("an erotic story", context=(Message("assistant", "There are games for children, too."),)), False),
        (Check("an erotic story", rail="output", query="A story about two adults"), False),
    ],
)
def test_what_the_user_said_before_counts(check: Check, young: bool) -> None:
    assert any(map(speaks_of_minors, spoken(check, (check.text,)))) is young


def test_earlier_turns_are_read_only_where_the_risk_is_of_sexual_content() -> None:
    read: list[str] = []

    def texts() -> Iterator[str]:
        read.append("read")
        yield "a 12-year-old"

    assert with_minors({"S1": 0.9}, texts()) == {"S1": 0.9}
    assert read == []


@pytest.mark.parametrize("piece", ["12 ", "a year ", "1-", "young "])
def test_the_rule_is_linear(piece: str, work_s: Callable[[Callable[[], object]], float]) -> None:
    once, eightfold = (work_s(partial(speaks_of_minors, piece * n)) for n in (10_000, 80_000))
    assert eightfold < 24 * once + 0.05  # a quadratic pattern would take 64 times as long


@pytest.mark.parametrize("text", ["2" + " " * 100_000 + "z", "2 " * 50_000, "12 -" * 50_000, "aged " + " " * 100_000])
def test_blanks_cost_no_more_than_their_number(text: str) -> None:
    started = time.process_time()
    assert not speaks_of_minors(text)
    assert time.process_time() - started < 5.0  # by squares it would take minutes
