"""The parts of a fleet without a cluster: policy, settings, the host as Ray calls it, errors on the wire."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from guardrail_plugin import ConfigError, InferencePool
from guardrail_plugin.core.errors import GuardianTimeout, InferenceError, PoolClosed, PoolOverloaded, ReplicaDead
from guardrail_plugin.pool import Account, GenerateRequest, RowFailed, ScoreRequest, ScoreResult, Token
from guardrail_plugin.testing import ScriptedReplica
from guardrail_ray import PoolHost, QueuedTokensPolicy, RayPool, RayReplica, fleet, load_guardians
from guardrail_ray.autoscaling import BUSY, QUEUED_TOKENS
from guardrail_ray.replica import RayDecode
from guardrail_ray.wire import Failed, from_wire, to_wire

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's warnings are its own affair


def load(pool: InferencePool, config: Mapping[str, object]) -> None:
    if config["version"] == "broken":
        raise RuntimeError("no such weights")
    script = ScriptedReplica(
        logprobs=lambda request: [float(str(config["version"]))] * len(request.label_ids),
        fail=lambda request: ValueError("poison") if request.input_ids[0] == 202 else None,
    )
    pool.register("m", script.factory)


@pytest.fixture
async def host() -> Any:
    made = PoolHost(load, partial(InferencePool, replicas=1, devices=["cpu"], max_queued=4))
    await made.reconfigure({"version": 1})
    yield made
    await made.__del__()


@pytest.mark.parametrize(
    ("queued", "busy", "hosts"),
    [
        (0, 0.0, 1),
        (999, 0.2, 1),
        (1001, 0.2, 2),
        (5000, 1.0, 5),
        (0, 2.4, 3),  # nothing waits, but three hosts are just enough: the queue alone would take them away
        (0, 2.5, 4),
    ],
)
def test_hosts_follow_queued_tokens_and_computing(queued: float, busy: float, hosts: int) -> None:
    policy = QueuedTokensPolicy(target_tokens=1000, target_busy=0.8)
    metrics = {QUEUED_TOKENS: {"a": queued / 2, "b": queued / 2}, BUSY: {"a": busy / 2, "b": busy / 2}}
    assert policy(SimpleNamespace(aggregated_metrics=metrics, target_num_replicas=7))[0] == hosts  # type: ignore[arg-type]


def test_without_reports_nothing_changes() -> None:
    policy = QueuedTokensPolicy(target_tokens=1000, target_busy=0.8)
    assert policy(SimpleNamespace(aggregated_metrics={}, target_num_replicas=7))[0] == 7  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong", [{"target_tokens": 0}, {"target_busy": 1.5}, {"pool": {"max_batch": 0}}, {"pool": {"max_batches": 4}}]
)
def test_wrong_settings_are_told_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        fleet(**wrong)


def test_a_fleet_is_an_application_that_scales_on_our_policy() -> None:
    deployment = fleet(max_hosts=3, target_tokens=500)._bound_deployment
    config = deployment._deployment_config.autoscaling_config
    assert (config.min_replicas, config.max_replicas) == (1, 3)
    policy = config.policy.get_policy()(**config.policy.policy_kwargs)
    assert policy.wanted(501, 0.0) == 2


async def test_a_host_scores_and_one_bad_request_fails_alone(host: PoolHost) -> None:
    requests = [ScoreRequest("m", (first, i), (3, 4)) for i, first in enumerate((1, 202, 1))]
    good, bad, other = await host.score(requests, 60.0)
    assert good == other == ScoreResult((1.0, 1.0))
    assert isinstance(bad, Failed)
    assert bad.kind == "inference"


async def test_a_list_that_is_longer_than_the_hosts_queue_goes_in_by_parts(host: PoolHost) -> None:
    found = await host.score([ScoreRequest("m", (1, i), (3,)) for i in range(30)], 60.0)
    assert found == [ScoreResult((1.0,))] * 30


async def test_a_host_does_not_know_a_model(host: PoolHost) -> None:
    (found,) = await host.score([ScoreRequest("n", (1,), (3,))], 60.0)
    assert isinstance(found, Failed)
    assert found.kind == "config"


async def test_a_stream_ends_with_its_reason(host: PoolHost) -> None:
    request = GenerateRequest("m", (1,), max_new_tokens=3)
    assert [item async for item in host.stream(request, 60.0)] == [0, 1, 2, "length"]
    stopping = GenerateRequest("m", (1,), max_new_tokens=9, stop_ids=frozenset({2}))
    assert [item async for item in host.stream(stopping, 60.0)] == [0, 1, "stop"]
    *_, last = [item async for item in host.stream(GenerateRequest("n", (1,), 3), 60.0)]
    assert isinstance(last, Failed)


async def test_new_weights_take_over_and_broken_ones_do_not(host: PoolHost) -> None:
    request = ScoreRequest("m", (1, 2), (3,))
    await host.reconfigure({"version": 2})
    assert await host.score([request], 60.0) == [ScoreResult((2.0,))]
    with pytest.raises(RuntimeError, match="no such weights"):
        await host.reconfigure({"version": "broken"})
    assert await host.score([request], 60.0) == [ScoreResult((2.0,))]
    host.check_health()


async def test_a_host_reports_what_the_policy_reads(host: PoolHost) -> None:
    assert set(host.record_autoscaling_stats()) == {QUEUED_TOKENS, BUSY}
    assert 0.0 <= host.record_autoscaling_stats()[BUSY] <= 1.0


def test_guardians_are_listed_by_name() -> None:
    with InferencePool() as pool, pytest.raises(ConfigError, match="guardians"):
        load_guardians(pool, {"guardian": "default"})


@pytest.mark.parametrize(
    "error",
    [
        PoolOverloaded("the queue is full", retry_after_s=2.5),
        GuardianTimeout(3.0),
        ReplicaDead("gone"),
        ConfigError("no such model"),
        InferenceError("the model failed on this request (ValueError)"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_the_wire(error: Exception) -> None:
    back = from_wire(pickle.loads(pickle.dumps(to_wire(error))))  # noqa: S301 - what Ray does
    assert (type(back), str(back)) == (type(error), str(error))
    assert getattr(back, "retry_after_s", None) == getattr(error, "retry_after_s", None)


def test_a_closing_host_is_one_to_turn_away_from_and_foreign_errors_are_not_quoted() -> None:
    assert isinstance(from_wire(to_wire(PoolClosed("closing"))), ReplicaDead)
    assert "secret" not in str(from_wire(to_wire(ValueError("secret"))))


def test_without_a_cluster_every_request_is_told_so_and_none_is_started() -> None:
    with RayPool(calls=1) as pool:
        pool.register("m", ScriptedReplica().factory)
        error = pool.submit(ScoreRequest("m", (1,), (3,))).exception(30)
    assert isinstance(error, ReplicaDead)
    assert "ray.init" in str(error.__cause__ or error)
    assert not ray.is_initialized()


def test_what_a_host_has_answered_is_not_asked_again_when_the_pool_halves_a_batch() -> None:
    class OneCall:
        calls = 0

        def score(self, requests: Any, accounts: Any) -> list[ScoreResult | Failed]:
            self.calls += 1
            return [Failed("overloaded", "full", 1.5) if r.input_ids == (2,) else ScoreResult((0.5,)) for r in requests]

    replica = object.__new__(RayReplica)
    replica._line = line = OneCall()  # type: ignore[assignment]
    replica._answered = {}
    batch = [ScoreRequest("m", (i,), (3,)) for i in range(4)]
    with pytest.raises(InferenceError, match="different ways"):  # not PoolOverloaded, which all would be told
        replica.score(batch)
    assert replica.score(batch[:2]) == [ScoreResult((0.5,))] * 2
    with pytest.raises(InferenceError):
        replica.score(batch[2:])
    with pytest.raises(PoolOverloaded, match=r"retry in 1\.50 s"):
        replica.score(batch[2:3])
    assert replica.score(batch[3:]) == [ScoreResult((0.5,))]
    assert line.calls == 1


def test_a_stream_that_a_host_refuses_ends_alone() -> None:
    streams: list[Any] = []

    class Line:
        def stream(self, request: Any, account: Any, tell: Any) -> Future[None]:
            streams.append(tell)
            return Future()

    requests = [GenerateRequest("m", (i,), 9) for i in range(2)]
    decode = RayDecode(Line(), requests, [Account()] * 2, timeout_s=1.0)  # type: ignore[arg-type]
    busy = PoolOverloaded("this tenant's part of the queue is full", retry_after_s=1.0)
    for row, news in ((0, 5), (1, busy), (0, 6)):
        streams[row](news)
    assert decode.step() == [Token(0, 5), Token(0, 6)]
    with pytest.raises(RowFailed) as caught:
        decode.step()
    assert (caught.value.row, caught.value.error) == (1, busy)
    streams[0]("length")
    assert decode.step() == [Token(0, None, "length")]
    assert decode.step() == []


async def test_a_host_keeps_tenants_and_deadlines_of_all_applications() -> None:
    asked: list[tuple[tuple[int, ...], str | None, float | None]] = []

    class Noting(InferencePool):
        async def ascore_many(self, requests: Any, **terms: Any) -> list[ScoreResult | Exception]:
            asked.extend((r.input_ids, terms["tenant"], terms["timeout_s"]) for r in requests)
            return await super().ascore_many(requests, **terms)

        def astream(self, request: GenerateRequest, **terms: Any) -> Any:
            asked.append((request.input_ids, terms["tenant"], terms["timeout_s"]))
            return super().astream(request, **terms)

    made = PoolHost(load, partial(Noting, replicas=1, devices=["cpu"]))
    await made.reconfigure({"version": 1})
    requests = [ScoreRequest("m", (first,), (3,)) for first in (1, 202, 3, 4)]
    accounts = [Account("a", 60.0), Account("b", 60.0), Account("a", 60.0), Account("", None)]
    found = await made.score(requests, 90.0, accounts)
    assert [type(one) for one in found] == [ScoreResult, Failed, ScoreResult, ScoreResult]
    assert asked == [((1,), "a", 60.0), ((3,), "a", 60.0), ((202,), "b", 60.0), ((4,), "", 90.0)]
    asked.clear()
    request = GenerateRequest("m", (1,), 3)
    assert [item async for item in made.stream(request, 90.0, Account("c", 120.0))][-1] == "length"
    assert asked == [((1,), "c", 90.0)]
    assert pickle.loads(pickle.dumps(accounts)) == accounts  # noqa: S301 - what Ray does
    await made.__del__()
