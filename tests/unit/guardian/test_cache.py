"""``CachedGuardian``: what is remembered, for how long, and what never is."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from guardrail_plugin.core.conversation import Check, Message
from guardrail_plugin.core.errors import ConfigError, GuardianError, VerdictParseError
from guardrail_plugin.core.verdict import RAILS
from guardrail_plugin.guardian.cache import CachedGuardian, CacheStats
from guardrail_plugin.guardian.cascade import CascadeGuardian
from guardrail_plugin.guardian.ensemble import EnsembleGuardian
from guardrail_plugin.testing import ScriptedGuardian, verdict

RULE: Any = {"BOMB": verdict(risk=0.9, hazard="S9"), "DOWN": GuardianError("down")}


class Clock:
    """Time that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def cached(**settings: Any) -> tuple[CachedGuardian, ScriptedGuardian]:
    judge = ScriptedGuardian(RULE, respond="No.")
    return CachedGuardian(judge, **settings), judge


async def test_the_second_time_costs_nothing() -> None:
    cache, judge = cached()
    first = cache.check_many([Check("tea"), Check("BOMB")])
    assert [outcome.harmful for outcome in first] == [False, True]  # type: ignore[union-attr]
    assert cache.check_many([Check("BOMB"), Check("tea")]) == [first[1], first[0]]
    assert await cache.acheck_many([Check("BOMB"), Check("new")]) == [first[1], first[0]]
    assert [check.text for check in judge.checks] == ["tea", "BOMB", "new"]
    assert cache.stats() == CacheStats(hits=3, misses=3, bypassed=0, evictions=0, expired=0, entries=3)
    assert (cache.id, cache.respond(Check("x"), None), await cache.arespond(Check("x"), None)) == (
        judge.id,
        "No.",
        "No.",
    )


def test_repeats_in_one_batch_are_asked_once() -> None:
    cache, judge = cached()
    outcomes = cache.check_many([Check("tea"), Check("BOMB"), Check("tea"), Check("BOMB")])
    assert outcomes[0] == outcomes[2]
    assert outcomes[1] == outcomes[3]
    assert len(judge.checks) == 2
    assert cache.stats().hits == 2


@pytest.mark.parametrize(
    "other",
    [
        Check("TEA"),
        Check("te a"),
        Check("tea", rail="document"),
        Check("tea", query=""),
        Check("tea", context=(Message("user", "x"),)),
        Check("tea", context=(Message("assistant", "x"),)),
        Check("te", context=(Message("user", "a"),)),
    ],
)
def test_what_differs_is_judged_anew(other: Check) -> None:
    cache, judge = cached()
    cache.check_many([Check("tea")])
    cache.check_many([other])
    assert judge.checks == [Check("tea"), other]


@pytest.mark.parametrize("same", [" tea\n", "tea\r\n"])
def test_what_reads_the_same_is_not(same: str) -> None:
    cache, judge = cached()
    cache.check_many([Check("tea"), Check("caf\u00e9")])
    cache.check_many([Check(same), Check("cafe\u0301")])
    assert len(judge.checks) == 2


def test_errors_are_never_kept() -> None:
    cache, judge = cached()
    assert isinstance(cache.check_many([Check("DOWN")])[0], GuardianError)
    assert isinstance(cache.check_many([Check("DOWN")])[0], GuardianError)
    assert len(judge.checks) == 2
    assert cache.stats().entries == 0


def test_verdicts_grow_old_and_the_least_used_go_first() -> None:
    clock = Clock()
    cache, judge = cached(max_entries=2, ttl_s=10.0, clock=clock)
    cache.check_many([Check("a"), Check("b")])
    cache.check_many([Check("a")])
    cache.check_many([Check("c")])  # pushes out b
    cache.check_many([Check("a")])
    assert [check.text for check in judge.checks] == ["a", "b", "c"]
    clock.now = 10.0
    cache.check_many([Check("a")])
    assert [check.text for check in judge.checks] == ["a", "b", "c", "a"]
    stats = cache.stats()
    assert (stats.evictions, stats.expired, stats.entries) == (1, 1, 2)
    cache.clear()
    assert cache.stats().entries == 0


@pytest.mark.parametrize("rail", RAILS)
def test_only_some_rails_are_kept_by_default(rail: Any) -> None:
    cache, judge = cached()
    for _ in range(2):
        [outcome] = cache.check_many([Check("tea", rail=rail)])
        assert outcome.rail == rail  # type: ignore[union-attr]
    kept = rail in ("input", "tool_output", "document")
    assert len(judge.checks) == (1 if kept else 2)
    assert cache.stats().bypassed == (0 if kept else 2)


@pytest.mark.parametrize("combine", [None, "max", "mean", "min"])
def test_a_stand_in_is_not_kept(combine: Any) -> None:
    """The cheap guardian's verdict counts while the second one is down, and not a moment longer."""
    down: Any = {"": GuardianError("down")}
    second = ScriptedGuardian(down)
    guardian: Any = CascadeGuardian(ScriptedGuardian({"unsure": verdict(risk=0.4)}), second, on_second_failure="cheap")
    if combine is not None:
        guardian = EnsembleGuardian([guardian, ScriptedGuardian({"": verdict(risk=0.4)})], combine=combine)
    cache = CachedGuardian(guardian)
    checks = [Check("unsure"), Check("sure")]
    assert [outcome.harmful for outcome in cache.check_many(checks)] == [False, False]  # type: ignore[union-attr]
    assert cache.stats().entries == 1
    down[""] = verdict(risk=0.9)
    [outcome] = cache.check_many(checks[:1])
    assert cache.stats().entries == 2
    assert outcome.harmful is (combine in (None, "max", "mean"))  # type: ignore[union-attr]
    assert [check.text for check in second.checks] == ["unsure", "unsure"]


def test_a_guardian_that_miscounts_is_not_believed() -> None:
    class Short(ScriptedGuardian):
        def check_many(self, checks: Any, *, timeout_s: float | None = None) -> Any:
            return super().check_many(checks)[:-1]

    with pytest.raises(VerdictParseError):
        CachedGuardian(Short(RULE)).check_many([Check("a"), Check("b")])


def test_threads_share_it() -> None:
    cache, judge = cached(max_entries=50)
    failed: list[object] = []

    def work(number: int) -> None:
        for i in range(200):
            text = f"{'BOMB' if i % 2 else 'tea'} {(i * number) % 60}"
            [outcome] = cache.check_many([Check(text)])
            if outcome.harmful != ("BOMB" in text):  # type: ignore[union-attr]
                failed.append(text)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = cache.stats()
    assert failed == []
    assert stats.entries <= 50
    assert stats.hits + stats.misses == 800
    assert stats.misses == len(judge.checks)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_entries": 0}, "max_entries"),
        ({"max_entries": True}, "max_entries"),
        ({"ttl_s": 0}, "ttl_s"),
        ({"ttl_s": float("nan")}, "ttl_s"),
        ({"rails": "input"}, "list of rails"),
        ({"rails": ["inptu"]}, r"did you mean 'input'\?"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cached(**settings)
