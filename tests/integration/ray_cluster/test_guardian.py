"""The embedded guardian on a fleet of one host per node: its verdicts are those of the guardian here."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="ray is not installed: pip install 'guardrail-plugin[ray]'")
pytest.importorskip("torch")

from ray import serve

import guardrail_plugin
from guardrail_plugin import Check, Guardian, InferencePool, Verdict
from guardrail_ray import RayPool, fleet

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

APP = "guardian"
CORPUS = Path(guardrail_plugin.__file__).parent / "training" / "corpus"


@pytest.fixture
def pool(ray_cluster: Any, embedded_base: Path) -> Iterator[RayPool]:
    # Of a node with one CPU a host takes more than half: there is one on either node.
    serve.run(fleet(min_hosts=2, max_hosts=2, num_cpus=0.6), name=APP, route_prefix=None)
    with RayPool(app=APP, timeout_s=120.0, on_full="wait") as made:
        yield made
    serve.delete(APP)


def test_two_hundred_verdicts_are_those_of_the_guardian_here(pool: RayPool) -> None:
    lines = [line for file in sorted(CORPUS.glob("rows_*.jsonl")) for line in file.read_text("utf-8").splitlines()]
    checks = [Check(json.loads(line)["text"]) for line in random.Random(0).sample(lines, 200)]
    assert serve.status().applications[APP].deployments["pool"].replica_states == {"RUNNING": 2}
    there = Guardian.load(pool=pool, offline=True).check_many(checks)
    with InferencePool(on_full="wait") as local:
        here = Guardian.load(pool=local, offline=True).check_many(checks)
    for one, other in zip(there, here, strict=True):
        assert isinstance(one, Verdict)
        assert isinstance(other, Verdict)
        assert (one.harmful, one.hazard) == (other.harmful, other.hazard)
        assert one.risk == pytest.approx(other.risk, abs=1e-4)
    assert 50 < sum(isinstance(one, Verdict) and one.harmful for one in there) < 150
