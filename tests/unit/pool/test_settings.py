"""What a pool may be made with, and what it says about the rest."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import pytest

import guardrail_plugin.pool as room
from guardrail_plugin.core.errors import ConfigError, PoolClosed
from guardrail_plugin.pool import GenerateRequest, InferencePool, ScoreRequest
from guardrail_plugin.testing.replicas import ScriptedReplica

SCORE = ScoreRequest("m", (1, 2, 3), (7, 8))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"replicas": 0}, "replicas"),
        ({"replicas": True}, "replicas"),
        ({"max_queued": 0}, "max_queued"),
        ({"max_queued_tokens": -1}, "max_queued_tokens"),
        ({"max_batch": 1.5}, "max_batch"),
        ({"max_batch_tokens": 0}, "max_batch_tokens"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_score_streak": 0}, "max_score_streak"),
        ({"max_decodes": 0}, "max_decodes"),
        ({"drain_s": -1}, "drain_s"),
        ({"drain_s": float("nan")}, "drain_s"),
        ({"drain_s": float("inf")}, "drain_s"),
        ({"devices": []}, "devices"),
        ({"devices": "cuda:0"}, "devices=['cuda:0']"),
        ({"devices": ["cpu", ""]}, "devices"),
        ({"on_full": "rejct"}, "did you mean 'reject'"),
    ],
)
def test_a_wrong_setting_is_named_at_construction(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        InferencePool(**settings)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("request_", "terms", "says"),
    [
        (ScoreRequest("modl", (1,), (2,)), {}, "did you mean 'model'"),
        (ScoreRequest("model", (1,), (2,)), {"timeout_s": float("nan")}, "timeout_s"),
        (ScoreRequest("model", (1,), (2,)), {"timeout_s": "soon"}, "timeout_s"),
        (ScoreRequest("model", (1,), (2,)), {"priority": 11}, "priority"),
        (ScoreRequest("model", (1,), (2,)), {"priority": 0.5}, "priority"),
        (GenerateRequest("model", (1,), max_new_tokens=0), {}, "max_new_tokens"),
    ],
)
def test_a_wrong_request_is_named_before_it_is_queued(request_: Any, terms: dict[str, Any], says: str) -> None:
    with InferencePool() as pool:
        pool.register("model", ScriptedReplica().factory)
        with pytest.raises(ConfigError) as caught:
            pool.submit(request_, **terms)
        assert says in str(caught.value)
        assert pool.stats().submitted == 0


def test_register_keeps_the_first_factory_and_works_before_and_after_entering() -> None:
    first, second, late = ScriptedReplica(), ScriptedReplica(), ScriptedReplica()
    pool = InferencePool()
    pool.register("m", first.factory)
    pool.register("m", second.factory)
    with pool:
        pool.register("late", late.factory)
        pool.submit(SCORE).result(10)
        pool.submit(ScoreRequest("late", (1,), (2,))).result(10)
    assert (first.count("score"), second.count("score"), late.count("score")) == (1, 0, 1)
    with pytest.raises(ConfigError):
        pool.register("", first.factory)


def test_devices_reach_the_factories_one_slot_each() -> None:
    seen: list[str] = []
    replica = ScriptedReplica()

    def build(device: str) -> ScriptedReplica:
        seen.append(device)
        return replica

    for devices, replicas, expected in [
        (None, 1, ["auto"]),
        (["cpu"], 3, ["cpu", "cpu", "cpu"]),
        (["cuda:0", "cuda:1"], 1, ["cuda:0", "cuda:1"]),
    ]:
        with InferencePool(devices=devices, replicas=replicas) as pool:
            assert [slot.device for slot in pool.stats().slots] == expected
    with InferencePool(devices=["mps"]) as pool:
        pool.register("m", build)
        pool.submit(SCORE).result(10)
    assert seen == ["mps"]


def test_a_pool_is_used_inside_with_and_only_once() -> None:
    pool = InferencePool()
    pool.register("m", ScriptedReplica().factory)
    with pytest.raises(PoolClosed, match="has not been entered"):
        pool.submit(SCORE)
    with pool:
        with pytest.raises(PoolClosed, match="entered once"):
            pool.open()
        assert pool.submit(SCORE).result(10)
    with pytest.raises(PoolClosed, match="is closed"):
        pool.submit(SCORE)
    with pytest.raises(PoolClosed, match="entered once"), pool:
        pass
    assert [type(error) for error in pool.score_many([SCORE, SCORE])] == [PoolClosed, PoolClosed]


def test_a_pool_that_was_never_entered_can_be_closed() -> None:
    pool = InferencePool()
    pool.close()
    with pytest.raises(PoolClosed), pool:
        pass


def test_the_public_names_are_pinned() -> None:
    assert room.__all__ == [
        "Account",
        "Decode",
        "Distribution",
        "FinishReason",
        "GenerateRequest",
        "Generation",
        "InferencePool",
        "OnFull",
        "PlacedFactory",
        "PoolStats",
        "PrefixStats",
        "RelayReplica",
        "Replica",
        "ReplicaFactory",
        "Request",
        "RowFailed",
        "ScoreRequest",
        "ScoreResult",
        "SlotStats",
        "Token",
        "default_pool",
        "on_behalf_of",
    ]
    assert all(hasattr(room, name) for name in room.__all__)


def test_the_pool_imports_no_torch() -> None:
    code = "import sys, guardrail_plugin.pool; print({'torch', 'transformers'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.strip() == "set()"


def test_stats_are_a_plain_frozen_record() -> None:
    with InferencePool(replicas=2) as pool:
        pool.register("m", ScriptedReplica().factory)
        pool.submit(SCORE).result(10)
        stats = pool.stats()
    assert pickle.loads(pickle.dumps(stats)) == stats  # noqa: S301 - our own
    assert (stats.phase, stats.submitted, stats.completed, stats.batches, len(stats.slots)) == ("open", 1, 1, 1, 2)
    with pytest.raises(AttributeError):
        stats.submitted = 5  # type: ignore[misc]
