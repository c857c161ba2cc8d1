"""A gateway while it runs: the policy file changes, metrics count, the audit log fills, shutdown drains."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from guardrail_fastapi import PolicySource, PolicyState
from guardrail_gateway import GatewaySettings, create_app, server
from guardrail_gateway.testing import Script, ScriptedUpstream, serving
from guardrail_plugin import ConfigError, PoolOverloaded
from guardrail_plugin.core.hazards import Hazard, Taxonomy
from guardrail_plugin.observe import AuditLog, RailEvent, RequestEvent, verify
from guardrail_plugin.testing import ScriptedGuardian, verdict

CHAT = "/v1/chat/completions"


def ask(url: str, text: str) -> httpx2.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return httpx2.post(f"{url}{CHAT}", json=body, trust_env=False, timeout=20.0)


class Heard:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.rails: list[RailEvent] = []
        self.requests: list[RequestEvent] = []

    def rail(self, event: RailEvent) -> None:
        self.rails.append(event)

    def request(self, event: RequestEvent) -> None:
        self.requests.append(event)


@pytest.fixture
def behind() -> Iterator[tuple[ScriptedUpstream, str]]:
    scripted = ScriptedUpstream()
    with serving(scripted.app) as url:
        yield scripted, f"{url}/v1"


def guardian() -> ScriptedGuardian:
    words = {"edgy": verdict(risk=0.6, hazard="S12"), "busy": PoolOverloaded("full", retry_after_s=1.0)}
    return ScriptedGuardian(words, respond="No.")


class Reloads:
    """Tells a test what is in force since a policy file was read again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._states: SimpleQueue[PolicyState] = SimpleQueue()
        swap = PolicySource._swap

        def noted(source: PolicySource, state: PolicyState) -> None:
            swap(source, state)
            self._states.put(state)

        monkeypatch.setattr(PolicySource, "_swap", noted)

    def wait(self, version: str, *, sound: bool = True) -> None:
        """Wait until this version is in force; not ``sound``: until the file is refused and it stays in force."""
        while True:
            state = self._states.get(timeout=30.0)  # raises Empty
            if state.policy.version == version and (state.error is None) == sound:
                return


def put(file: Path, content: str) -> None:
    """Change a file as editors and Kubernetes do it: another one, which is whole, takes its place."""
    aside = file.parent.parent / f"{file.name}.new"
    aside.write_text(content)
    aside.replace(file)


def test_a_changed_policy_takes_force_and_a_broken_one_does_not(
    behind: tuple[ScriptedUpstream, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reloads, file = Reloads(monkeypatch), tmp_path / "watched" / "policy.toml"
    file.parent.mkdir()
    file.write_text('version = "one"\nthreshold = 0.5\n')
    settings = GatewaySettings(upstream=behind[1], port=0)
    with serving(create_app(settings, guardian=guardian(), policy=file), settings) as url:
        assert ask(url, "edgy").json()["guardrail"]["action"] == "block"
        put(file, 'version = "two"\nthreshold = 0.9\n')
        reloads.wait("two")
        told = ask(url, "edgy").json()["guardrail"]
        assert (told["action"], told["rails"][0]["policy_version"]) == ("allow", "two")
        put(file, 'version = "three"\nthreshold = 7\n')
        reloads.wait("two", sound=False)
        assert ask(url, "edgy").json()["guardrail"]["rails"][0]["policy_version"] == "two"
        state = httpx2.get(f"{url}/readyz", trust_env=False, timeout=20.0).json()["policy"]
        assert (state["version"], state["reloads"], state["current"]) == ("two", 1, False)
        assert metric(url, "guardrail_policy_current") == 0
        file.write_text('version = "four"\n')  # in place: it may be seen while it is empty
        reloads.wait("four")
        assert ask(url, "edgy").json()["guardrail"]["rails"][0]["policy_version"] == "four"
        assert metric(url, "guardrail_policy_current") == 1


def metric(url: str, name: str, **labels: str) -> float:
    text = httpx2.get(f"{url}/metrics", trust_env=False, timeout=20.0).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def test_metrics_audit_and_requests(behind: tuple[ScriptedUpstream, str], tmp_path: Path) -> None:
    heard, file = Heard(), tmp_path / "audit.jsonl"
    log = AuditLog(file, key=b"0123456789abcdef")
    settings = GatewaySettings(upstream=behind[1], port=0)
    with serving(create_app(settings, guardian=guardian(), observers=[heard, log]), settings) as url:
        for text, status in (("hi", 200), ("edgy", 200), ("busy", 429)):
            assert ask(url, text).status_code == status
        assert metric(url, "guardrail_verdicts_total", rail="input", action="block", hazard="S12") == 1
        assert metric(url, "guardrail_verdicts_total", rail="output", action="allow", hazard="none") == 1
        assert metric(url, "guardrail_overloads_total", rail="input") == 1
        assert metric(url, "guardrail_failures_total", error="PoolOverloaded", on_failure="block") == 1
        assert metric(url, "guardrail_requests_total", operation="chat", status="200", caller="anyone") == 2
        assert metric(url, "guardrail_requests_total", operation="chat", status="429") == 1
        assert metric(url, "guardrail_guardian_seconds_count", rail="input") == 2
        assert metric(url, "guardrail_tokens_total", kind="output") == 5
    log.close()
    assert [event.action for event in heard.rails] == ["allow", "allow", "block", "block"]
    assert {event.request_id for event in heard.rails} == {event.request_id for event in heard.requests}
    assert [event.error for event in heard.requests] == [None, None, "overloaded"]
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == 4
    assert "edgy" not in file.read_text()
    assert len(lines[0]["texts"][0]["hash"]) == 64
    assert verify(file, key=b"0123456789abcdef").broken is None


def test_pages_get_the_gateway_and_cannot_take_its_paths(behind: tuple[ScriptedUpstream, str]) -> None:
    async def page(request: Request) -> Response:
        return PlainTextResponse(request.state.gateway.service.guardian.id)

    settings = GatewaySettings(upstream=behind[1], port=0)
    app = create_app(settings, guardian=guardian(), pages=[Route("/hello", page)])
    with serving(app, settings) as url:
        assert httpx2.get(f"{url}/hello", trust_env=False, timeout=20.0).text == "scripted"
    with pytest.raises(ConfigError):
        create_app(settings, pages=[Route("/metrics", page)])


def test_what_runs_at_shutdown_gets_its_answer(behind: tuple[ScriptedUpstream, str]) -> None:
    asked, answer = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    scripted = behind[0]
    hang = scripted._hang

    async def wait() -> None:
        loops.append(asyncio.get_running_loop())
        asked.set()
        await answer.wait()

    scripted._hang = wait  # type: ignore[method-assign]
    scripted.script = Script(hang_after=1)
    got: list[int] = []
    settings = GatewaySettings(upstream=behind[1], port=0)
    try:
        with serving(create_app(settings, guardian=guardian()), settings) as url:
            client = threading.Thread(target=lambda: got.append(ask(url, "hi").status_code))
            client.start()
            assert asked.wait(20.0)
            # The server is told to stop when the block ends; the answer comes only then.
            threading.Timer(0.2, lambda: loops[0].call_soon_threadsafe(answer.set)).start()
        client.join(20.0)
    finally:
        scripted._hang = hang  # type: ignore[method-assign]
    assert got == [200]


def test_a_policy_for_a_guardians_own_hazards_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("[hazards.harm]\nthreshold = 0.9\n")
    own = guardian()
    own.taxonomy = Taxonomy((Hazard("harm", "Harm", "harm of any kind"),))  # type: ignore[attr-defined]
    server._check_policy(file, own)
    server._check_policy(file, "a/folder")
    with pytest.raises(ConfigError, match="unknown hazard code"):
        server._check_policy(file, None)
    file.write_text("[hazard.harm]\nthreshold = 0.9\n")
    with pytest.raises(ConfigError, match="did you mean 'hazards'"):
        server._check_policy(file, "a/folder")
