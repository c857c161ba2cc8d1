"""``guardrail serve`` and ``guardrail audit``: options, and a real process that is started, asked and stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from typer.testing import CliRunner

from guardrail_plugin.cli.app import app
from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.flow import Allowed
from guardrail_plugin.observe import AuditLog, RailEvent

pytest.importorskip("guardrail_gateway")

from guardrail_gateway import GatewaySettings


def run(*arguments: str, **environment: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), env=environment)
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--rails", "inputs"], "did you mean 'input'"),
        (["--history", "some"], "history must be"),
        (["--window", "word"], "--window must be"),
        (["--host", "0.0.0.0"], "--keys FILE"),  # noqa: S104  refused, that is the test
        (["--upstream", "nowhere"], "upstream must be"),
        (["--keys", "no-such-file"], "cannot read"),
        (["--allowed-host", "http://a.example"], "host names"),
        (["--audit-text"], "needs --audit"),
    ],
)
def test_wrong_options(arguments: list[str], told: str) -> None:
    code, output = run("serve", *arguments)
    assert code == 2
    assert told in output


@pytest.mark.parametrize(
    ("content", "told"), [(b"\xff\xfe\x00", "is not UTF-8"), (b"\xef\xbb\xbf# none", "holds no key")]
)
def test_a_file_of_keys_in_another_encoding(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    code, output = run("serve", "--keys", str(file))
    assert (code, told in output) == (2, True)


def test_neither_keys_nor_passwords_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[GatewaySettings] = []
    monkeypatch.setattr("guardrail_gateway.serve", lambda settings, **_: given.append(settings))
    monkeypatch.setattr("guardrail_plugin.observe.log_json", lambda **_: None)
    code, output = run("serve", "--upstream", "http://me:secret@there.example/v1", GUARDRAIL_UPSTREAM_KEY="a-key\n")
    assert code == 0
    assert "there.example" in output
    assert "secret" not in output
    assert given[0].upstream_key == "a-key"


def test_help_names_every_endpoint() -> None:
    code, output = run("serve", "--help")
    assert code == 0
    assert "/v1/chat/completions" in output


def test_audit(tmp_path: Path) -> None:
    file, key = tmp_path / "audit", "0123456789abcdef"
    log = AuditLog(file, key=key.encode())
    for _ in range(3):
        log.rail(RailEvent.of(Allowed("input"), policy=Policy(), seconds=0.0, checks=[Check("hi")]))
    log.close()
    code, output = run("audit", str(file), GUARDRAIL_AUDIT_KEY=key)
    assert code == 0
    assert "3 lines in 1 files, numbers 1 to 3" in output
    file.write_text(file.read_text().replace('"allow"', '"block"', 1))
    code, output = run("audit", str(file), GUARDRAIL_AUDIT_KEY=key)
    assert code == 1
    assert "line 1: changed" in output
    assert run("audit", str(tmp_path / "none"))[0] == 2


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_process_serves_and_stops(embedded_base: Path, port: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "guardrail_plugin.cli.main", "serve", "--port", str(port)]
    command += ["--audit", str(tmp_path / "audit.jsonl")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if "startup complete" in line:
                    break
            ready = httpx2.get(f"http://127.0.0.1:{port}/readyz", trust_env=False, timeout=20.0)
            assert ready.json()["ready"] is True
            body = {"input": "How are you?"}
            answer = httpx2.post(f"http://127.0.0.1:{port}/v1/moderations", json=body, trust_env=False, timeout=60.0)
            assert answer.json()["results"][0]["flagged"] is False
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60.0)
    assert process.returncode in (0, -signal.SIGTERM)
    assert '"kind":"rail"' in (tmp_path / "audit.jsonl").read_text()
    assert run("audit", str(tmp_path / "audit.jsonl"))[0] == 0
