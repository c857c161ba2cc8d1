"""``guardrail loadtest`` against a real gateway: the mix, the figures, and whom it refuses to drive."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from guardrail_gateway import GatewaySettings, create_app, read_keys
from guardrail_gateway.load_figures import LoadReport, Shot, quantiles
from guardrail_gateway.loadtest import Load, run_load
from guardrail_gateway.testing import Script, ScriptedUpstream, serving
from guardrail_plugin import ConfigError, PoolOverloaded
from guardrail_plugin.cli.app import app
from guardrail_plugin.testing import ScriptedGuardian

KEY = "0123456789abcdef"
TEXTS: dict[str, Any] = {"harmless": ("hello",), "harmful": ("a bomb",)}


def run(*arguments: str, **environment: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["loadtest", *arguments], env=environment)
    return result.exit_code, result.output


async def test_a_mix_at_a_concurrency(gateway: str) -> None:
    load = Load(url=f"{gateway}/v1", seconds=1.5, concurrency=4, harmful_share=0.5, **TEXTS)
    report = await run_load(load)
    told = report.as_dict()
    assert (report.count("error"), report.count("overloaded"), report.unsent) == (0, 0, 0)
    assert told["blocked_share"] == {"harmful": 1.0, "harmless": 0.0}
    assert {shot.streamed for shot in report.shots} == {True, False}
    latency: Any = told["latency_s"]
    assert 0 < latency["all"]["p50"] <= latency["all"]["p95"] <= latency["all"]["max"]
    assert latency["first_text"]["p50"] <= latency["streamed"]["max"]


async def test_a_rate_sends_what_was_asked(gateway: str) -> None:
    report = await run_load(Load(url=gateway, seconds=1.0, rate=20, concurrency=50, harmful_share=0.0, **TEXTS))
    assert len(report.shots) + report.unsent == 20
    assert report.count("answered") == len(report.shots)


async def test_overloads_are_no_errors(gateway: str) -> None:
    load = Load(url=gateway, seconds=0.5, concurrency=2, harmful_share=0.0, harmless=("busy",), streamed_share=0.0)
    report = await run_load(load)
    assert report.count("overloaded") == len(report.shots) > 0
    assert report.as_dict()["overloads"] == {"429 overloaded": len(report.shots)}


@pytest.mark.parametrize(
    ("script", "reason"),
    [(Script(end_after=2), "200 upstream_broke_off"), (Script(status=500, error={"code": "oh"}), "500 oh")],
)
async def test_errors_are_counted_by_kind(script: Script, reason: str) -> None:
    scripted = ScriptedUpstream(script)
    with serving(scripted.app) as behind:
        settings = GatewaySettings(upstream=f"{behind}/v1", port=0)
        with serving(create_app(settings, guardian=ScriptedGuardian({})), settings) as url:
            report = await run_load(Load(url=url, seconds=0.3, concurrency=1, streamed_share=1.0))
    assert report.count("error") == len(report.shots) > 0
    errors: Any = report.as_dict()["errors"]
    assert list(errors) == [reason]


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "127.0.0.1:8100"},
        {"url": "ftp://127.0.0.1"},
        {"url": "http://192.0.2.7:8100"},
        {"url": "http://gateway.example:8100/v1"},
        {"url": "http://127.0.0.1.example"},
        {"url": "http://127.0.0.1@gateway.example"},
        {"seconds": 0},
        {"seconds": float("inf")},
        {"rate": -1},
        {"concurrency": 0},
        {"harmful_share": 1.1},
        {"harmless": ()},
    ],
)
def test_what_it_refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Load(**wrong)


def test_another_machine_needs_a_word() -> None:
    assert Load(url="http://192.0.2.7:8100", allow_remote=True).base == "http://192.0.2.7:8100"
    assert Load(url="http://[::1]:8100/v1/").base == "http://[::1]:8100"
    code, output = run("--url", "http://192.0.2.7:8100")
    assert (code, "--allow-remote" in output) == (2, True)


def test_the_command_prints_json_and_a_table(gateway: str, tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "hello", "harmful": false}\n\n{"text": "a bomb", "harmful": true}\n')
    code, output = run("--url", gateway, "--seconds", "0.5", "--texts", str(texts), "--harmful", "0.5", "--json")
    told = json.loads(output)
    assert (code, told["error"], told["blocked_share"]["harmful"]) == (0, 0, 1.0)
    code, output = run("--url", gateway, "--seconds", "0.5", "--concurrency", "2")
    assert code == 0
    assert "answered" in output
    assert "p95" in output
    texts.write_text('{"text": "hello"}')
    assert run("--url", gateway, "--texts", str(texts))[0] == 2


def test_keys_come_from_the_environment() -> None:
    scripted = ScriptedUpstream()
    with serving(scripted.app) as behind:
        settings = GatewaySettings(upstream=f"{behind}/v1", port=0, keys=read_keys([KEY]))
        guardian = ScriptedGuardian({"busy": PoolOverloaded("full", retry_after_s=1.0)})
        with serving(create_app(settings, guardian=guardian), settings) as url:
            assert run("--url", url, "--seconds", "0.3", GUARDRAIL_API_KEY=KEY)[0] == 0
            code, output = run("--url", url, "--seconds", "0.3", "--json", GUARDRAIL_API_KEY="another-key-than-that")
    assert code == 1
    assert list(json.loads(output)["errors"]) == ["401 invalid_api_key"]


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        code, output = run("--url", f"http://127.0.0.1:{free.getsockname()[1]}")
    assert (code, "no gateway answers" in output) == (2, True)


def test_figures() -> None:
    assert quantiles([]) == {}
    assert quantiles([float(n) for n in range(1, 101)]) == {
        "mean": 50.5, "p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "max": 100.0,
    }  # fmt: skip
    shot = Shot(harmful=True, streamed=False, end="blocked", seconds=0.5)
    told = LoadReport(seconds=2.0, shots=(shot, shot), unsent=3).as_dict()
    assert (told["requests_per_s"], told["unsent"], told["blocked"]) == (1.0, 3, 2)
    assert told["blocked_share"] == {"harmful": 1.0, "harmless": None}


def test_the_dashboard_is_printed() -> None:
    result = CliRunner().invoke(app, ["dashboard"])
    assert result.exit_code == 0
    assert json.loads(result.output)["uid"] == "guardrail-gateway"
