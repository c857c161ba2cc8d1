"""The entry point: light, versioned, and polite where something is not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from typer.testing import Result

from guardrail_plugin._version import __version__
from guardrail_plugin.core.errors import ConfigError

Invoke = Callable[..., Result]
HEAVY = ("torch", "transformers", "tokenizers", "langchain_core", "huggingface_hub", "peft")


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )


def test_help_loads_no_model_library() -> None:
    code = f"""
import json, sys
from guardrail_plugin.cli.main import main
try:
    main()
except SystemExit as end:
    print(json.dumps([end.code, [name for name in {HEAVY!r} if name in sys.modules]]))
"""
    for arguments in (("--help",), ("check", "--help"), ("train", "--help"), ("--version",)):
        done = run(code, *arguments)
        assert json.loads(done.stdout.splitlines()[-1]) == [0, []], done.stderr


def test_without_the_extra_the_message_names_it() -> None:
    for package in ("typer", "rich"):
        done = run(f"import sys; sys.modules[{package!r}] = None; from guardrail_plugin.cli.main import main; main()")
        assert done.returncode == 2
        assert done.stderr == f"error: {package} is not installed. Run: pip install 'guardrail-plugin[cli]'\n"


def test_a_reader_that_leaves_is_no_error() -> None:
    code = """
import sys
from contextlib import contextmanager
from guardrail_plugin.cli import check
from guardrail_plugin.cli.session import Session
from guardrail_plugin.testing import allow_all
@contextmanager
def opened(*_, **__):
    yield Session(allow_all(), None)
check.open_session = opened
from guardrail_plugin.cli.main import main
sys.argv = ["guardrail", "check", "--json", *["text"] * 2000]
main()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(timeout=60) == 141
    assert errors == b""


def test_version(guardrail: Invoke) -> None:
    result = guardrail("--version")
    assert (result.exit_code, result.stdout) == (0, f"guardrail-plugin {__version__}\n")


HELP = """\
Usage: guardrail [OPTIONS] COMMAND [ARGS]...

  A small language model stands guard in front of any LangChain chain.
"""


def test_help_is_what_the_readme_shows(guardrail: Invoke) -> None:
    result = guardrail("--help")
    assert result.stdout.startswith(HELP)
    commands = result.stdout.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in commands if line.strip()][:6] == [
        *("check", "chat", "train", "mix", "export", "doctor")
    ]


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("check", "--file --json --no-response --rail --policy --guardian --device --dtype --batch-size --output"),
        ("chat", "--model --system --max-tokens --temperature --policy --guardian --device --dtype"),
        ("train", "--out --data --config --base --max-steps --device --resume --fresh --quiet"),
        ("export", "--out --model --base --dtype"),
        ("doctor", "--json --online"),
    ],
)
def test_every_command_explains_its_options(guardrail: Invoke, command: str, options: str) -> None:
    result = guardrail(command, "--help")
    assert result.exit_code == 0
    assert [option for option in options.split() if option not in result.stdout] == []


def test_no_arguments_show_the_help(guardrail: Invoke) -> None:
    assert "Commands:" in guardrail().output


def test_an_error_is_one_line_unless_debugged(guardrail: Invoke) -> None:
    result = guardrail("check", "--file", "nowhere.jsonl")
    assert (result.exit_code, result.stderr) == (2, "error: cannot read nowhere.jsonl: No such file or directory\n")
    with pytest.raises(ConfigError, match="nowhere"):
        guardrail("--debug", "check", "--file", "nowhere.jsonl")


def test_environment_variables_stand_for_options(guardrail: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def opened(source: str | None, **options: object) -> None:
        asked.extend([source, str(options["policy"])])
        raise ConfigError("enough")

    monkeypatch.setattr("guardrail_plugin.cli.check.open_session", opened)
    monkeypatch.setenv("GUARDRAIL_GUARDIAN", "somewhere")
    monkeypatch.setenv("GUARDRAIL_POLICY", "p.toml")
    assert guardrail("check", "x").stderr == "error: enough\n"
    assert asked == ["somewhere", "p.toml"]


def test_a_module_of_an_extra_names_the_extra(guardrail: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'peft'", name="peft")

    monkeypatch.setattr("guardrail_plugin.cli.check.open_session", opened)
    result = guardrail("check", "x")
    assert result.exit_code == 2
    assert result.stderr == "error: peft is not installed. Run: pip install 'guardrail-plugin[local]'\n"
