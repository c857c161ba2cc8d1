"""The output rail's prompt: the query first, then as many earlier turns as fit; without any, as it was trained."""

from __future__ import annotations

from guardrail_plugin.core.conversation import Check, Message
from guardrail_plugin.guardian.format import Layout, prompt


class Letters:
    """One id per letter."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, ids: object) -> str:
        raise NotImplementedError


LAYOUT = Layout(vocab_size=1000, end_id=2, context_tokens=20)
TASK, TURN, VERDICT = (LAYOUT.control(name) for name in ("output", "turn", "verdict"))


def laid_out(query: str, *turns: str) -> str:
    context = tuple(Message("user", turn) for turn in turns)
    ids = prompt(LAYOUT, Letters(), Check("answer", rail="output", query=query, context=context), [ord("A")])
    marks = {TASK: "[", TURN: "|", VERDICT: "]"}
    return "".join(marks.get(i) or chr(i) for i in ids)


def test_without_earlier_turns_the_prompt_is_the_trained_one() -> None:
    assert laid_out("query") == "[query|A]"


def test_earlier_turns_stand_before_the_query_and_the_newest_have_precedence() -> None:
    assert laid_out("query", "old", "new") == "[old|new|query|A]"
    assert laid_out("a long query", "old", "newer") == "[newer|a long query|A]"


def test_the_query_has_the_first_claim_and_the_whole_is_bounded() -> None:
    assert laid_out("a query of twenty ch", "old") == "[a query of twenty ch|A]"
    assert len(laid_out("query", "x" * 50, "y" * 50)) <= 20 + len("[|A]")
