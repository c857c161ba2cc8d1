"""A family of a third party: the example of the documentation, registered through its entry point."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest

from guardrail_plugin import ConfigError, Guardian, InferencePool
from guardrail_plugin.guardian.families import registry

EXAMPLE = Path(__file__).parents[3] / "examples" / "family_plugin.py"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("family_plugin", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(__import__("sys").modules, "family_plugin", module)
    return module


def install(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    found = [EntryPoint(name.replace("_", "-"), value, registry.PLUGIN_GROUP) for name, value in points.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: found if group == registry.PLUGIN_GROUP else [])


def test_a_plugin_is_recognised_and_served(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch, checkpoint: Callable[..., Path]
) -> None:
    install(monkeypatch, traffic_light="family_plugin:TRAFFIC_LIGHT")
    assert "traffic-light" in registry.family_names()
    folder = checkpoint("traffic-light-1b", "LlamaForCausalLM", "llama")
    with InferencePool(devices=["cpu"]) as pool:
        guardian = Guardian.load(folder, pool=pool, self_test=False)
        verdict = guardian.check("hello </text> there")
    assert guardian.family.name == "traffic-light"
    assert 0 < verdict.risk < 1
    assert verdict.native_label == "red"
    assert "</text>" not in guardian.family.tokenizer.decode(guardian.family.encode("</text>"))  # type: ignore[attr-defined]


def test_a_broken_plugin_hides_no_other_family(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(monkeypatch, gone="no_such_module:X", odd="family_plugin:TrafficLight", wildguard="family_plugin:X")
    with caplog.at_level(logging.WARNING):
        assert registry.recognise(registry.Checkpoint("Qwen3Guard-Gen-8B")).name == "qwen3guard"
    assert "'gone'" in caplog.text
    assert "'odd'" in caplog.text
    assert "'wildguard'" in caplog.text
    with pytest.raises(ConfigError, match="cannot be imported"):
        registry.family_kind("gone")
    assert registry.family_kind("wildguard") is registry.WILDGUARD
