"""Batches: ``max_concurrency`` also bounds what the guardian is asked at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import GuardianTimeout
from guardrail_plugin.guardian.protocol import CheckOutcome
from guardrail_plugin.runnables import guard
from guardrail_plugin.testing import ScriptedGuardian


class Slow(ScriptedGuardian):
    """Manages four checks within the time it is given."""

    def check_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        judged = super().check_many(checks, timeout_s=timeout_s)
        return judged if len(checks) <= 4 else [GuardianTimeout(timeout_s or 0.0) for _ in checks]


@pytest.mark.parametrize("way", ["batch", "abatch"])
async def test_a_large_batch_is_judged_in_parts_each_with_its_own_time(way: str) -> None:
    guardian = Slow({})
    chain = guard(RunnableLambda(str.upper), guardian=guardian, rails=("input", "output"), output_type=str)

    async def answers(config: Any = None) -> list[str]:
        found: Any = getattr(chain, way)(list("abcdefgh"), config)
        return list(await found if way == "abatch" else found)

    for most, parts in ((4, [4, 4]), (3, [3, 3, 2]), (1, [1] * 8)):
        guardian.batches.clear()
        assert await answers({"max_concurrency": most}) == list("ABCDEFGH")
        assert [len(batch) for batch in guardian.batches] == parts * 2
    assert not {*"ABCDEFGH"} & {*await answers()}
