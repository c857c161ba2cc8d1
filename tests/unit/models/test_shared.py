"""Weights shared between replicas: loaded once per device, freed with the last one, one compute thread each."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from guardrail_plugin.models.kept import Prefix  # noqa: E402
from guardrail_plugin.models.load import device_places, load_causal_lm  # noqa: E402
from guardrail_plugin.models.shared import SharedWeights  # noqa: E402
from guardrail_plugin.models.torch_calibrate import best_batch_tokens  # noqa: E402
from guardrail_plugin.models.torch_replica import TorchReplica  # noqa: E402
from guardrail_plugin.pool import GenerateRequest, InferencePool, PlacedFactory, ScoreRequest  # noqa: E402

LABELS = (20, 30, 40)


class Loads:
    """Loads the tiny model and counts how often."""

    def __init__(self, folder: Path) -> None:
        self.count = 0
        self._folder = folder

    def __call__(self, *, device: str) -> Any:
        self.count += 1
        return load_causal_lm(self._folder, device=device)


@pytest.fixture
def loads(tiny_base: Path) -> Loads:
    return Loads(tiny_base)


def in_thread(build: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(build()))
    thread.start()
    thread.join(60)
    return found[0]


def test_replicas_on_one_device_share_weights_and_kept_rows(loads: Loads) -> None:
    factory = SharedWeights(loads, kept_mb=3)
    assert isinstance(factory, PlacedFactory)
    one, other = in_thread(lambda: factory("cpu")), in_thread(lambda: factory("auto"))
    assert isinstance(one, TorchReplica)
    assert loads.count == 1
    assert one.engine is other.engine
    assert one.engine.name == "packed"
    request = ScoreRequest("m", tuple(range(20, 40)), LABELS)
    assert one.score([request])[0].logprobs == pytest.approx(other.score([request])[0].logprobs, abs=1e-5)
    assert other.kept.stats.hits == 1
    assert one.nbytes == other.nbytes > 3 << 20
    rows, nbytes, *counters = factory.kept_counts()
    assert (rows, counters) == (1, [2, 1, 19])
    assert nbytes > 0
    one.close()
    other.close()
    assert factory.kept_counts() == (0, 0, 2, 1, 19)


def test_weights_are_freed_with_the_last_replica_and_loaded_again(loads: Loads) -> None:
    factory = SharedWeights(loads)
    one, other = in_thread(lambda: factory("cpu")), in_thread(lambda: factory("cpu"))
    one.close()
    one.close()
    assert in_thread(lambda: factory("cpu")).engine is other.engine
    assert loads.count == 1
    other.close()
    assert loads.count == 1
    factory = SharedWeights(loads)
    in_thread(lambda: factory("cpu")).close()
    in_thread(lambda: factory("cpu"))
    assert loads.count == 3


def test_without_memory_for_it_nothing_is_kept(loads: Loads) -> None:
    replica = in_thread(lambda: SharedWeights(loads, kept_mb=0)("cpu"))
    request = ScoreRequest("m", tuple(range(20, 40)), LABELS, prefix_len=12)
    assert replica.score([request])
    assert replica.kept is None


def test_a_pool_of_several_replicas_answers_as_one_does_and_survives_a_death(loads: Loads) -> None:
    factory = SharedWeights(loads)
    texts = [tuple((n * 7 + i) % 250 for i in range(10 + n)) for n in range(24)]
    requests = [ScoreRequest("m", text, LABELS) for text in texts]
    expected = in_thread(lambda: factory("cpu")).score(requests)
    deaths = [SystemExit()]

    def build(device: str) -> Any:
        replica = factory(device)
        score = replica.score
        replica.score = lambda batch: (_ for _ in ()).throw(deaths.pop()) if deaths else score(batch)
        return replica

    with InferencePool(devices=["cpu"], replicas=3, max_batch=4) as pool:
        pool.register("m", build)
        answers = pool.score_many(requests)
        made = [pool.submit(GenerateRequest("m", (*text, 5), max_new_tokens=4)) for text in texts]
        assert all(len(future.result(60).token_ids) == 4 for future in made)
        assert pool.stats().replica_restarts == 1
    for answer, want in zip(answers, expected, strict=True):
        assert not isinstance(answer, Exception)
        assert answer.logprobs == pytest.approx(want.logprobs, abs=1e-4)
    assert loads.count == 1  # the others, and the replica of this test, kept the weights


def test_places_of_a_cpu_are_the_threads_that_torch_would_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_places("cpu") == ["cpu"] * torch.get_num_threads()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert device_places("auto") == ["cuda:0", "cuda:1", "cuda:2"]
    assert device_places("cuda:1") == ["cuda:1"]


def test_one_thread_for_a_worker_and_nothing_changes_around_it() -> None:
    # In a process of its own: the count of threads is this process's affair.
    code = """
import threading, torch
from guardrail_plugin.models.torch_threads import usable_threads, use_one_thread
torch.set_num_threads(3)
seen = []
def work():
    use_one_thread()
    seen.append(torch.get_num_threads())
worker = threading.Thread(target=work); worker.start(); worker.join()
later = threading.Thread(target=lambda: seen.append(torch.get_num_threads())); later.start(); later.join()
print(seen, torch.get_num_threads(), usable_threads())
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert shown.stdout.strip() == "[1, 3] 3 3"


def test_classifiers_compute_in_one_thread_per_worker_on_a_cpu() -> None:
    code = """
import threading, torch
from pathlib import Path
from guardrail_plugin.models import classifier
torch.set_num_threads(3)
classifier.load_classifier = lambda *_, **__: object()
seen = []
def work():
    classifier.ClassifierWeights(Path("x"), pad_id=0)("cpu")
    seen.append(torch.get_num_threads())
worker = threading.Thread(target=work); worker.start(); worker.join()
print(seen, torch.get_num_threads())
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert shown.stdout.strip() == "[1] 3"


class Paced:
    """An engine whose batches take as long as a table says; runs out of memory past ``most`` tokens."""

    name = "paced"
    reuses = True

    def __init__(self, seconds: Callable[[int], float], *, most: int) -> None:
        self.now = 0.0
        self.sizes: list[int] = []
        self._seconds = seconds
        self._most = most

    def open(self, prompts: list[tuple[int, ...]], prefixes: list[Prefix], *, room: int = 0) -> Paced:
        tokens = sum(map(len, prompts))
        if tokens > self._most:
            raise torch.OutOfMemoryError("too much")
        self.sizes.append(tokens)
        self.now += self._seconds(tokens)
        return self

    def prefill(self, most_tokens: int | None = None) -> bool:
        return True

    def logits(self, columns: slice) -> Any:
        return torch.zeros(1, 2)


@pytest.mark.parametrize(
    ("seconds", "most", "expected"),
    [
        (lambda tokens: 1.0, 10_000, 8192),  # always faster, until memory ends
        (lambda tokens: 1.0, 1 << 30, 65_536),  # never beyond the bound
        (lambda tokens: max(tokens, 4000) / 1000, 1 << 30, 4096),  # saturated from 4000 on
        (lambda tokens: tokens, 1 << 30, 1024),
        (lambda tokens: 1.0, 10, 1024),
    ],
)
def test_a_batch_grows_while_that_pays(seconds: Callable[[int], float], most: int, expected: int) -> None:
    engine = Paced(seconds, most=most)
    found = best_batch_tokens(engine, vocabulary=100, clock=lambda: engine.now)  # type: ignore[arg-type, unused-ignore]
    assert found == expected
