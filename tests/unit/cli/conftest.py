"""Fixtures: a runner, and sessions with a scripted guardian in place of the real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from guardrail_plugin.cli import chat as chat_command
from guardrail_plugin.cli import check as check_command
from guardrail_plugin.cli.app import app
from guardrail_plugin.cli.session import Session
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.pool import InferencePool

Invoke = Callable[..., Result]
Use = Callable[[GuardianProtocol], None]


@pytest.fixture
def guardrail(monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run ``guardrail`` with these arguments: in this process, with no terminal, 80 columns wide."""
    for variable in ("GUARDRAIL_POLICY", "GUARDRAIL_GUARDIAN", "RANK"):
        monkeypatch.delenv(variable, raising=False)
    runner = CliRunner(env={"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"})

    def invoke(*arguments: str, stdin: str | bytes | None = None) -> Result:
        return runner.invoke(app, list(arguments), input=stdin, catch_exceptions=False, prog_name="guardrail")

    return invoke


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Make the commands use this guardian, and note what they were asked to open."""

    def put(guardian: GuardianProtocol) -> None:
        @contextmanager
        def opened(
            source: str | None, *, policy: Path | None = None, device: str | None = None, dtype: str = "auto"
        ) -> Iterator[Session]:
            with InferencePool() as pool:
                yield Session(guardian, pool, None if policy is None else Policy.from_toml(policy))

        monkeypatch.setattr(check_command, "open_session", opened)
        monkeypatch.setattr(chat_command, "open_session", opened)

    return put
