"""The Grafana dashboard's queries, asked of a real Prometheus that scrapes a real gateway."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmark"
SECONDS = 10.0


def shared(name: str) -> ModuleType:
    """Import what the script that draws the dashboard uses too."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARK / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


asking, staging = shared("dashboard_prometheus"), shared("dashboard_scene")
PANELS: list[dict[str, Any]] = asking.panels()
QUERIES = [(panel, target) for panel in PANELS for target in panel["targets"]]
NAMES = [f"{panel['title']} {target['refId']}" for panel, target in QUERIES]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(asking.binary() is None, reason="no prometheus on PATH, and GUARDRAIL_PROMETHEUS names none"),
]


@dataclass(frozen=True, slots=True)
class Watched:
    """A Prometheus that has seen a gateway idle, then busy. Units: seconds since the epoch."""

    asked: Any
    idle_s: tuple[float, float]
    busy_s: tuple[float, float]
    instance: str

    def series(self, query: str, *, busy: bool = True, **chosen: str) -> Any:
        start_s, end_s = self.busy_s if busy else self.idle_s
        return self.asked.range(self.asked.filled(query, **chosen), start_s=start_s, end_s=end_s)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("dashboard")
    with (
        staging.scene(folder) as shown,
        asking.prometheus(shown.url, key=staging.SCRAPER, folder=folder, every_s=1) as asked,
    ):
        idle_s = (time.time() - 3, time.time())
        asyncio.run(staging.load(shown, rate=12.0, seconds=SECONDS, wave_every_s=SECONDS / 2))
        asked.wait(2)
        yield Watched(asked, idle_s, (idle_s[1], time.time()), shown.url.removeprefix("http://"))


@pytest.mark.parametrize(("panel", "target"), QUERIES, ids=NAMES)
def test_every_query_has_an_answer_that_can_be_drawn(
    watched: Watched, panel: dict[str, Any], target: dict[str, Any]
) -> None:
    found = watched.series(target["expr"])
    assert any(series.numbers for series in found)
    legends = [series.legend(target["legendFormat"]) for series in found]
    assert all(legend.strip() == legend and "  " not in legend and legend for legend in legends)
    assert len(set(legends)) == len(legends)
    numbers = [number for series in found for number in series.numbers]
    assert min(numbers) >= panel["fieldConfig"]["defaults"]["min"]
    assert max(numbers) <= panel["fieldConfig"]["defaults"].get("max", float("inf"))


@pytest.mark.parametrize(("panel", "target"), QUERIES, ids=NAMES)
def test_the_variables_choose(watched: Watched, panel: dict[str, Any], target: dict[str, Any]) -> None:
    chosen = watched.series(target["expr"], job="guardrail", instance=watched.instance)
    every = watched.series(target["expr"])
    assert [series.labels for series in chosen] == [series.labels for series in every]
    other = watched.series(target["expr"], instance="elsewhere:1")
    assert not any(number for series in other for number in series.numbers)


def test_what_a_rate_is_taken_of_is_counted(watched: Watched) -> None:
    kinds = {name: told[0]["type"] for name, told in watched.asked.get("/metadata").items()}
    for _, target in QUERIES:
        for name in re.findall(r"(?:rate|increase)\((\w+)", target["expr"]):
            family = re.sub(r"_(bucket|sum|count)$", "", name)
            assert kinds[family] == ("counter" if family == name else "histogram"), name


@pytest.mark.parametrize("panel", [panel for panel in PANELS if panel["type"] == "stat"], ids=lambda one: one["title"])
def test_at_a_glance_means_something_before_the_first_request(watched: Watched, panel: dict[str, Any]) -> None:
    found = watched.series(panel["targets"][0]["expr"], busy=False)
    numbers = [number for series in found for number in series.numbers]
    defaults = panel["fieldConfig"]["defaults"]
    if defaults.get("noValue"):
        assert all(not series.values for series in found), "not a number is drawn as such"
    else:
        assert numbers
        assert numbers[-1] == (1.0 if "mappings" in defaults else 0.0)


@pytest.mark.parametrize(
    "title",
    [
        "Requests per second", "Blocked share", "p95 rail time", "Overloads per second", "Without a verdict",
        "Decisions by action", "Hazards that were found", "Blocks by rail", "Errors that clients were told",
        "How requests end", "Batch size", "Busy share of the slots", "Tokens of the model behind, per second",
    ],
)  # fmt: skip
def test_what_happened_is_more_than_nothing(watched: Watched, title: str) -> None:
    [panel] = [panel for panel in PANELS if panel["title"] == title]
    found = [series for target in panel["targets"] for series in watched.series(target["expr"])]
    assert max(number for series in found for number in series.numbers) > 0


def test_the_variables_have_values(watched: Watched) -> None:
    [series] = watched.asked.get("/series", **{"match[]": "guardrail_policy_current"})
    assert (series["job"], series["instance"]) == ("guardrail", watched.instance)


@pytest.mark.parametrize("title", ["Windows per verdict", "Batch size"])
def test_no_batch_is_smaller_than_one(watched: Watched, title: str) -> None:
    # A quantile within the bucket of 0 to 1 is a fraction: nothing that can have happened.
    [panel] = [panel for panel in PANELS if panel["title"] == title]
    found = [series for target in panel["targets"] for series in watched.series(target["expr"])]
    assert min(number for series in found for number in series.numbers) >= 1
