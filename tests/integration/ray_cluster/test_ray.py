"""A fleet on a real two-node Ray cluster: the replica contract, typed errors, updates, and death under load."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="ray is not installed: pip install 'guardrail-plugin[ray]'")
pytest.importorskip("torch")

import ray
from ray import serve

from guardrail_plugin import ConfigError, InferencePool
from guardrail_plugin.core.errors import InferenceError, PoolError, PoolOverloaded, ReplicaDead
from guardrail_plugin.models.load import load_causal_lm
from guardrail_plugin.models.shared import SharedWeights
from guardrail_plugin.pool import Decode, GenerateRequest, ScoreRequest, ScoreResult
from guardrail_ray import LoadModels, RayPool, RayReplica, fleet

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's warnings are its own affair

APP = "guardrail"
WAIT_S = 120.0
SLOW, POISON = 201, 202  # first ids that mean something to the scripted model
SLOW_S = 0.05
PROMPTS = [(5, 6, 7), (9, 8, 7, 6, 5, 4, 3, 10, 11, 12), (42,), (5, 6, 7, 8), tuple(range(60, 90))]
LABELS = (20, 30, 40)


def loader(folder: Path) -> LoadModels:
    """Return what a host loads: a tiny random model "tiny" and a scripted one "script" that tells its version."""

    def load(pool: InferencePool, config: Any) -> None:  # nested: Ray ships it by value, tests are no package
        import threading
        from functools import partial

        from guardrail_plugin.models.load import load_causal_lm
        from guardrail_plugin.models.shared import SharedWeights
        from guardrail_plugin.testing import ScriptedReplica

        def pause(call: Any) -> None:
            if any(request.input_ids[0] == 201 for request in call.requests):
                threading.Event().wait(0.05)

        if config["version"] == "broken":
            raise RuntimeError("no such weights")
        pool.register("tiny", SharedWeights(partial(load_causal_lm, folder)))
        script = ScriptedReplica(
            logprobs=lambda request: [float(config["version"])] * len(request.label_ids),
            fail=lambda request: ValueError("poison") if request.input_ids[0] == 202 else None,
            on_call=pause,
        )
        pool.register("script", script.factory)

    return load


def deploy(folder: Path, *, version: int | str = 1, hosts: int = 2, most: int = 2, target_tokens: int = 10**6) -> None:
    application = fleet(
        loader(folder),
        config={"version": version},
        min_hosts=hosts,
        max_hosts=most,
        num_cpus=0.4,
        pool={"max_queued": 48, "max_batch": 4},
        target_tokens=target_tokens,
        target_busy=1.0,
        upscale_delay_s=0.0,
        look_back_s=11.0,
    )
    serve.run(application, name=APP, route_prefix=None)


def host_count() -> int:
    replicas = serve.status().applications[APP].deployments["pool"].replica_states
    return replicas.get("RUNNING", 0)


def until(true: Callable[[], bool]) -> None:
    """Ask again and again; another process is waited for, whose events do not reach this one."""
    end, tick = time.monotonic() + WAIT_S, threading.Event()
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        tick.wait(0.1)


def script_request(i: int, first: int = 1) -> ScoreRequest:
    return ScoreRequest("script", (first, 1000 + i), (3, 4))


def versions(outcomes: Sequence[ScoreResult | Exception]) -> set[float]:
    return {outcome.logprobs[0] for outcome in outcomes if isinstance(outcome, ScoreResult)}


def drained(decode: Decode) -> dict[int, list[int]]:
    ids: dict[int, list[int]] = {}
    while news := decode.step():
        for token in news:
            if token.token_id is not None:
                ids.setdefault(token.row, []).append(token.token_id)
    return ids


@pytest.fixture(scope="module")
def folder(ray_cluster: Any, tiny_base: Path) -> Path:
    deploy(tiny_base)
    return tiny_base


@pytest.fixture
def replica(folder: Path) -> Iterator[RayReplica]:
    made = RayReplica(app=APP, timeout_s=WAIT_S)
    yield made
    made.close()


@pytest.fixture
def pool(folder: Path) -> Iterator[RayPool]:
    with RayPool(app=APP, calls=2, timeout_s=WAIT_S, max_batch=16) as made:
        for model in ("tiny", "script", "unheard of"):
            made.register(model, _no_weights_here)
        yield made


def _no_weights_here(device: str) -> Any:
    raise AssertionError("an application loads no weights")


def test_scores_are_those_of_a_local_replica(folder: Path, replica: RayReplica) -> None:
    local = SharedWeights(partial(load_causal_lm, folder))("cpu")
    batch = [ScoreRequest("tiny", prompt, LABELS) for prompt in PROMPTS] + [ScoreRequest("tiny", (7, 7), (30, 20))]
    for found, expected in zip(replica.score(batch), local.score(batch), strict=True):
        assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    local.close()


def test_greedy_decoding_is_that_of_a_local_replica(folder: Path, replica: RayReplica) -> None:
    local = SharedWeights(partial(load_causal_lm, folder))("cpu")
    limits = (1, 9, 3, 6, 12)
    requests = [GenerateRequest("tiny", prompt, n) for prompt, n in zip(PROMPTS, limits, strict=True)]
    assert drained(replica.start(requests)) == drained(local.start(requests))
    local.close()


def test_a_cancelled_row_stops_and_the_others_go_on(replica: RayReplica) -> None:
    decode = replica.start([GenerateRequest("script", (1, n), max_new_tokens=8) for n in range(3)])
    decode.cancel(1)
    found = drained(decode)
    assert found[0] == found[2] == list(range(8))
    assert 1 not in found


def test_one_bad_request_fails_alone_and_typed(pool: RayPool) -> None:
    outcomes = pool.score_many([script_request(i, POISON if i == 5 else 1) for i in range(12)], timeout_s=WAIT_S)
    assert isinstance(outcomes[5], InferenceError)
    assert sum(isinstance(outcome, ScoreResult) for outcome in outcomes) == 11


def test_a_model_that_the_fleet_does_not_have_is_an_error_that_says_so(pool: RayPool) -> None:
    error = pool.submit(ScoreRequest("unheard of", (1, 2), (3, 4))).exception(WAIT_S)
    assert isinstance(error, (InferenceError, ConfigError))
    assert "ConfigError" in f"{type(error).__name__} {error}"


def test_an_unknown_application_is_a_typed_error(folder: Path) -> None:
    with RayPool(app="nobody", calls=1) as lonely:
        lonely.register("script", _no_weights_here)
        assert isinstance(lonely.submit(script_request(0)).exception(WAIT_S), ReplicaDead)


def test_overload_comes_over_with_a_time_to_retry_after(folder: Path) -> None:
    with RayPool(app=APP, calls=12, max_batch=16) as flood:
        flood.register("script", _no_weights_here)
        outcomes = flood.submit_many([script_request(i, SLOW) for i in range(400)], timeout_s=WAIT_S)
        errors = [error for future in outcomes if (error := future.exception(WAIT_S)) is not None]
    assert errors, "192 at once are more than two hosts hold"
    assert all(isinstance(error, PoolOverloaded) and error.retry_after_s > 0 for error in errors)
    assert len(errors) < 400, "what they hold is answered"


def test_streams_arrive_token_by_token_and_breaking_off_stops_the_host(pool: RayPool) -> None:
    endless = GenerateRequest("script", (SLOW, 7), max_new_tokens=100_000)
    stream = pool.stream(endless)
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    handle = serve.get_deployment_handle("pool", APP)

    def running() -> int:
        return sum(stats.running for stats in handle.broadcast("stats").results(timeout_s=10))

    assert running() == 1
    stream.close()
    until(lambda: running() == 0)


def test_new_weights_roll_in_under_load_and_nobody_is_turned_away(folder: Path, pool: RayPool) -> None:
    seen: list[ScoreResult | Exception] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            seen.extend(pool.score_many([script_request(len(seen) + i) for i in range(16)], timeout_s=WAIT_S))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        deploy(folder, version=2)
        until(lambda: versions(pool.score_many([script_request(-i) for i in range(40)])) == {2.0})
    finally:
        stop.set()
        asking.join(WAIT_S)
    assert [outcome for outcome in seen if isinstance(outcome, Exception)] == []
    assert versions(seen) == {1.0, 2.0}


def test_a_host_that_dies_under_load_costs_nobody_an_answer(folder: Path, pool: RayPool) -> None:
    futures = [pool.submit(script_request(i, SLOW), timeout_s=WAIT_S) for i in range(200)]
    futures[3].result(WAIT_S)
    victim = next(
        actor for actor in ray.util.list_named_actors(all_namespaces=True) if "SERVE_REPLICA" in actor["name"]
    )
    ray.kill(ray.get_actor(victim["name"], namespace=victim["namespace"]))
    assert_all_told(futures)
    until(lambda: host_count() == 2)
    assert len(versions(pool.score_many([script_request(1000 + i) for i in range(40)], timeout_s=WAIT_S))) == 1


def test_a_node_that_dies_under_load_leaves_no_caller_waiting(ray_cluster: Any, folder: Path, pool: RayPool) -> None:
    futures = [pool.submit(script_request(2000 + i, SLOW), timeout_s=WAIT_S) for i in range(200)]
    futures[3].result(WAIT_S)
    ray_cluster.remove_node(next(iter(ray_cluster.worker_nodes)), allow_graceful=False)
    assert_all_told(futures)
    until(lambda: host_count() == 2)  # both on the node that is left
    answers = pool.score_many([script_request(3000 + i) for i in range(40)], timeout_s=WAIT_S)
    assert all(isinstance(answer, ScoreResult) for answer in answers)


def assert_all_told(futures: Sequence[Future[ScoreResult]]) -> None:
    """Every caller has an answer or an error of ours, and most have an answer."""
    waiting = wait(futures, timeout=WAIT_S).not_done
    assert not waiting
    errors = [error for future in futures if (error := future.exception()) is not None]
    assert all(isinstance(error, PoolError) for error in errors), errors[:3]
    assert len(errors) < len(futures) / 2
