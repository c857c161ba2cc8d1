"""Each key is a tenant of the pool that judges: what one floods it with does not starve the others."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator, Sequence

import httpx2
import pytest

from guardrail_gateway import GatewaySettings, create_app, read_keys
from guardrail_gateway.testing import serving
from guardrail_plugin import Check, GuardrailError, InferencePool, Verdict
from guardrail_plugin.guardian.protocol import CheckOutcome
from guardrail_plugin.pool import ScoreRequest
from guardrail_plugin.testing import verdict
from guardrail_plugin.testing.replicas import Hold, ScriptedReplica

FLOODER, OTHER, NAMELESS = "flooder-0123456789abcdef", "other-0123456789abcdef", "nameless-0123456789abcdef"
FLOOD = 20


class PooledGuardian:
    """Allows everything, after the pool has scored it. A text is a number, and so are its tokens."""

    id = "pooled"

    def __init__(self, pool: InferencePool) -> None:
        self._pool = pool
        self.queued = threading.Semaphore(0)

    async def acheck_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Judge by a score each."""
        requests = [ScoreRequest("m", (int(check.text),), (1, 2)) for check in checks]
        work = asyncio.ensure_future(self._pool.ascore_many(requests))
        await asyncio.sleep(0)  # it has taken its place in the queue then
        self.queued.release()
        return [
            scored if isinstance(scored, GuardrailError) else verdict(rail=check.rail)
            for check, scored in zip(checks, await work, strict=True)
        ]

    def check_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Not used by the gateway."""
        raise NotImplementedError

    def respond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
        """Not used: nothing is blocked."""
        raise NotImplementedError

    async def arespond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
        """Not used: nothing is blocked."""
        raise NotImplementedError


class Busy:
    """A gateway whose one replica is held while requests queue up."""

    def __init__(self, url: str, pool: InferencePool, *, hold: Hold, replica: ScriptedReplica) -> None:
        self.url = url
        self.hold = hold
        self.pool = pool
        self._replica = replica

    async def moderate(self, client: httpx2.AsyncClient, key: str, number: int) -> int:
        """Ask for a verdict about a number; return the status."""
        headers = {"authorization": f"Bearer {key}"}
        answer = await client.post(f"{self.url}/v1/moderations", json={"input": str(number)}, headers=headers)
        return answer.status_code

    def order(self) -> list[int]:
        """Return the numbers in the order in which they were scored."""
        return [row.input_ids[0] for call in self._replica.calls if call.kind == "score" for row in call.requests]


@pytest.fixture
def guardian(pool: InferencePool) -> PooledGuardian:
    return PooledGuardian(pool)


@pytest.fixture
def pool() -> Iterator[InferencePool]:
    # A tenant that has nothing in the queue counts for a while: no time passes here.
    with InferencePool(replicas=1, max_batch=1, max_queued=16, clock=lambda: 0.0) as made:
        yield made


@pytest.fixture
def busy(pool: InferencePool, guardian: PooledGuardian) -> Iterator[Busy]:
    hold = Hold("score")
    replica = ScriptedReplica(on_call=hold)
    pool.register("m", replica.factory)
    keys = read_keys([f"flooder:{FLOODER}", f"other:{OTHER}", NAMELESS])
    settings = GatewaySettings(upstream="http://127.0.0.1:9/v1", port=0, keys=keys)
    with serving(create_app(settings, guardian=guardian, warm_up=False), settings) as url:
        yield Busy(url, pool, hold=hold, replica=replica)
        hold.release()


async def test_one_key_does_not_starve_another(busy: Busy, guardian: PooledGuardian) -> None:
    async with httpx2.AsyncClient(trust_env=False, timeout=60.0) as client:
        flood = [asyncio.ensure_future(busy.moderate(client, FLOODER, 100))]
        assert await asyncio.to_thread(busy.hold.entered.wait, 30.0)
        flood += [asyncio.ensure_future(busy.moderate(client, FLOODER, 101 + n)) for n in range(8)]
        for _ in range(9):
            assert await asyncio.to_thread(guardian.queued.acquire, timeout=30.0)
        other = asyncio.ensure_future(busy.moderate(client, OTHER, 1))
        assert await asyncio.to_thread(guardian.queued.acquire, timeout=30.0)
        busy.hold.release()
        assert await other == 200
        assert set(await asyncio.gather(*flood)) == {200}
    # In one queue it would have come last.
    assert busy.order().index(1) <= 2


async def test_who_floods_the_queue_is_turned_away_before_the_others(busy: Busy, guardian: PooledGuardian) -> None:
    async with httpx2.AsyncClient(trust_env=False, timeout=60.0) as client:
        first = asyncio.ensure_future(busy.moderate(client, OTHER, 1))
        assert await asyncio.to_thread(busy.hold.entered.wait, 30.0)
        flood = [asyncio.ensure_future(busy.moderate(client, FLOODER, 101 + n)) for n in range(FLOOD)]
        for _ in range(1 + FLOOD):
            assert await asyncio.to_thread(guardian.queued.acquire, timeout=30.0)
        other = asyncio.ensure_future(busy.moderate(client, OTHER, 2))
        assert await asyncio.to_thread(guardian.queued.acquire, timeout=30.0)
        busy.hold.release()
        assert [await first, await other] == [200, 200]
        statuses = await asyncio.gather(*flood)
    assert statuses.count(200) == 12  # three quarters of the queue
    assert statuses.count(429) == FLOOD - 12


async def test_no_key_is_in_figures(busy: Busy) -> None:
    busy.hold.release()
    async with httpx2.AsyncClient(trust_env=False, timeout=60.0) as client:
        for number, key in enumerate((FLOODER, NAMELESS, OTHER)):
            assert await busy.moderate(client, key, number) == 200
        headers = {"authorization": f"Bearer {OTHER}"}
        told = (await client.get(f"{busy.url}/metrics", headers=headers)).text + repr(busy.pool.stats())
    assert busy.pool.stats().tenants == 3
    assert not any(key in told for key in (FLOODER, OTHER, NAMELESS))
    callers = set(re.findall(r'caller="([^"]*)"', told))
    assert {"flooder", "other"} < callers
    assert any(re.fullmatch("[0-9a-f]{8}", name) for name in callers)
