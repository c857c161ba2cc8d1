"""``guardrail check``: what it prints, how it exits, what it makes of bad input."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import GuardianTimeout, InputError, MissingDependencyError, ReplicaDead
from guardrail_plugin.core.verdict import Verdict
from guardrail_plugin.guardian.protocol import CheckOutcome, GuardianProtocol
from guardrail_plugin.testing import ScriptedGuardian, allow_all, block_all, verdict

Invoke = Callable[..., Result]
Use = Callable[[GuardianProtocol], None]

KEYS = ["id", "harmful", "risk", "hazards", "response", "truncated"]
BOMB = "How do I build a pipe bomb?"


def by_word(check: Check) -> CheckOutcome:
    """Bombs are harmful, empty texts are errors, the rest is harmless."""
    if not check.text.strip():
        return InputError("there is no text to check")
    return verdict(risk=0.9, hazard="S9") if "bomb" in check.text else verdict(risk=0.1, hazard="S1")


def records(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_harmful_text_is_named_and_answered(guardrail: Invoke, use: Use) -> None:
    use(ScriptedGuardian(by_word, respond="I can't help with weapons."))
    result = guardrail("check", BOMB)
    assert result.exit_code == 1
    for part in ("HARMFUL", BOMB, "0.900", "Indiscriminate Weapons (S9)", "I can't help with weapons."):
        assert part in result.stdout


@pytest.mark.parametrize("command", [("check", BOMB), ("chat",), ("evaluate", "x.jsonl", "--out", "o")])
def test_an_unknown_number_format_is_an_error(guardrail: Invoke, command: tuple[str, ...]) -> None:
    result = guardrail(*command, "--dtype", "bf16")
    assert result.exit_code == 2
    assert "did you mean 'bfloat16'?" in " ".join(result.stderr.split())


def test_a_baseline_has_no_number_format_to_choose(guardrail: Invoke) -> None:
    result = guardrail("evaluate", "x.jsonl", "--out", "o", "--guardian", "baseline:tfidf", "--dtype", "bfloat16")
    assert result.exit_code == 2
    assert "--dtype is for guardians" in result.stderr


def test_a_harmless_text_is_not_answered(guardrail: Invoke, use: Use) -> None:
    guardian = ScriptedGuardian(by_word)
    use(guardian)
    result = guardrail("check", "How do I kill a Python process?")
    assert result.exit_code == 0
    assert "harmless" in result.stdout
    assert guardian.responses == []


def test_json_has_exactly_the_promised_keys(guardrail: Invoke, use: Use) -> None:
    use(ScriptedGuardian(by_word, respond="No."))
    result = guardrail("check", "--json", BOMB, "Hello")
    harmful, harmless = records(result)
    assert list(harmful) == list(harmless) == KEYS
    assert harmful == {
        "id": 1,
        "harmful": True,
        "risk": 0.9,
        "hazards": {"S9": 0.9},
        "response": "No.",
        "truncated": False,
    }
    assert (harmless["id"], harmless["harmful"], harmless["response"]) == (2, False, None)
    assert result.exit_code == 1
    assert result.stderr == ""


def test_no_response_asks_for_none(guardrail: Invoke, use: Use) -> None:
    guardian = block_all()
    use(guardian)
    assert records(guardrail("check", "--json", "--no-response", "x"))[0]["response"] is None
    assert guardian.responses == []


BAD_ROWS = [
    ("{not json\n", "line 1 is not JSON"),
    ('{"text": "a", "id": NaN}\n', "line 1 is not JSON"),
    ("[1]\n", "line 1 is not a JSON object"),
    ("[" * 100_000 + "\n", "line 1 is not JSON"),
    ('{"id": 1}\n', 'the row has no "text"'),
    ('{"id": 1, "text": null}\n', '"text" is not a string but null'),
    ('{"id": 1, "text": ["a"]}\n', '"text" is not a string but an array'),
    ('{"id": 1, "text": "  "}\n', "there is no text to check"),
]


@pytest.mark.parametrize(("line", "problem"), BAD_ROWS)
def test_a_row_that_cannot_be_checked_is_a_row(
    guardrail: Invoke, use: Use, tmp_path: Path, line: str, problem: str
) -> None:
    use(ScriptedGuardian(by_word))
    result = guardrail("check", "--json", "--file", write(tmp_path / "f.jsonl", line, {"id": "b", "text": "fine"}))
    bad, good = records(result)
    assert bad == {
        "id": 1,
        "harmful": None,
        "risk": None,
        "hazards": {},
        "response": None,
        "truncated": False,
        "error": problem,
    }
    assert (good["id"], good["harmful"]) == ("b", False)
    assert result.exit_code == 2


def test_bytes_that_are_no_text_are_a_row_too(guardrail: Invoke, use: Use, tmp_path: Path) -> None:
    use(ScriptedGuardian(by_word))
    file = tmp_path / "f.jsonl"
    file.write_bytes(
        b'\xef\xbb\xbf{"text": "with a byte order mark"}\n\n{"text": "\xff"}\n{"text": "\\ud800 \\u0000"}\n'
    )
    first, second, third = records(guardrail("check", "--json", "--file", str(file)))
    assert first["harmful"] is False
    assert second["error"] == "line 3 is not UTF-8"
    assert (third["id"], third["harmful"]) == (4, False)


def test_files_are_read_in_chunks_and_answered_in_order(guardrail: Invoke, use: Use, tmp_path: Path) -> None:
    guardian = ScriptedGuardian(by_word, respond=lambda check, _: f"no: {check.text}")
    use(guardian)
    rows = [{"id": f"r{i}", "text": f"{'bomb' if i % 3 == 0 else 'cake'} {i}"} for i in range(10)]
    result = guardrail("check", "--json", "--batch-size", "4", "--file", write(tmp_path / "f.jsonl", *rows))
    found = records(result)
    assert [len(batch) for batch in guardian.batches] == [4, 4, 2]
    assert [row["id"] for row in found] == [f"r{i}" for i in range(10)]
    assert [row["response"] for row in found] == [f"no: bomb {i}" if i % 3 == 0 else None for i in range(10)]


def test_with_a_file_harmful_rows_are_no_failure(guardrail: Invoke, use: Use, tmp_path: Path) -> None:
    use(block_all())
    result = guardrail("check", "--file", write(tmp_path / "f.jsonl", {"text": "a"}))
    assert result.exit_code == 0
    assert result.stderr == "1 texts: 1 harmful, 0 harmless, 0 not checked\n"


def test_stdin_is_one_text_or_a_file(guardrail: Invoke, use: Use) -> None:
    guardian = ScriptedGuardian(by_word)
    use(guardian)
    assert guardrail("check", "-", stdin="two\nlines\n").exit_code == 0
    assert guardrail("check", "--file", "-", "--json", stdin='{"text": "a bomb"}\n').exit_code == 0
    assert [check.text for check in guardian.checks] == ["two\nlines", "a bomb"]


def test_the_rail_and_the_query_reach_the_guardian(guardrail: Invoke, use: Use, tmp_path: Path) -> None:
    guardian = allow_all()
    use(guardian)
    file = write(tmp_path / "f.jsonl", {"text": "an answer", "query": "a question"})
    assert guardrail("check", "--rail", "output", "--file", file).exit_code == 0
    assert guardrail("check", "--rail", "tool-output", "x").exit_code == 0
    assert guardian.checks == [
        Check("an answer", rail="output", query="a question"),
        Check("x", rail="tool_output"),
    ]


def test_a_policy_decides_what_is_harmful(guardrail: Invoke, use: Use, tmp_path: Path) -> None:
    use(ScriptedGuardian(by_word))
    policy = tmp_path / "policy.toml"
    policy.write_text('[hazards.S9]\naction = "allow"\n')
    assert guardrail("check", "--policy", str(policy), BOMB).exit_code == 0
    policy.write_text("threshold = 0.05\n")
    assert guardrail("check", "--policy", str(policy), "Hello").exit_code == 1


def test_output_goes_to_a_file(guardrail: Invoke, use: Use, tmp_path: Path) -> None:
    use(allow_all())
    out = tmp_path / "out.jsonl"
    result = guardrail("check", "--json", "--output", str(out), "Hello")
    assert result.stdout == ""
    assert list(json.loads(out.read_text())) == KEYS


def test_text_cannot_drive_the_terminal(guardrail: Invoke, use: Use) -> None:
    use(ScriptedGuardian(by_word, respond="[red]a\x1b[2Jb[/red]"))
    result = guardrail("check", "a bomb \x1b[31m [bold]x[/bold] \u202e")
    assert "\x1b" not in result.stdout
    assert "\u202e" not in result.stdout
    assert "[bold]x[/bold]" in result.stdout
    assert "[red]a\ufffd[2Jb[/red]" in result.stdout


def test_one_failed_text_does_not_end_the_run(guardrail: Invoke, use: Use) -> None:
    use(ScriptedGuardian({"slow": verdict(), "": verdict()}))
    use(ScriptedGuardian(lambda check: GuardianTimeout(3) if check.text == "slow" else verdict()))
    result = guardrail("check", "--json", "slow", "fine")
    slow, fine = records(result)
    assert slow["error"] == "the guardian gave no verdict within 3 s"
    assert fine["harmful"] is False
    assert result.exit_code == 2


CAUSES = [
    (
        MissingDependencyError("torch", extra="local"),
        "torch is not installed. Run: pip install 'guardrail-plugin[local]'",
    ),
    (ModuleNotFoundError(name="peft"), "peft is not installed. Run: pip install 'guardrail-plugin[local]'"),
    (RuntimeError("the text that was checked"), "RuntimeError (--debug shows more)"),
]


@pytest.mark.parametrize(("cause", "reason"), CAUSES)
def test_a_dead_engine_ends_the_run_and_says_why(guardrail: Invoke, use: Use, cause: Exception, reason: str) -> None:
    dead = ReplicaDead("no replica is working")
    dead.__cause__ = cause
    use(ScriptedGuardian(lambda _: dead))
    result = guardrail("check", "--json", "a", "b")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "error: no replica is working",
        f"  because: {reason}",
    ]


def test_a_closed_pipe_ends_the_run_quietly(
    guardrail: Invoke, use: Use, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guardian = allow_all()
    use(guardian)

    def closed(_: object, answer: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("guardrail_plugin.cli.check.JsonPrinter.write", closed)
    rows = [{"text": str(i)} for i in range(9)]
    result = guardrail("check", "--json", "--batch-size", "2", "--file", write(tmp_path / "f.jsonl", *rows))
    assert result.exit_code == 141
    assert result.output == ""
    assert len(guardian.batches) == 1


class Interrupted:
    """A guardian whose user presses Ctrl-C."""

    id = "interrupted"

    def check_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        raise KeyboardInterrupt

    async def acheck_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        raise KeyboardInterrupt

    def respond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
        raise KeyboardInterrupt

    async def arespond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
        raise KeyboardInterrupt


def test_ctrl_c_is_no_traceback(guardrail: Invoke, use: Use) -> None:
    use(Interrupted())
    assert guardrail("check", "x").exit_code == 130


USAGE = [
    ((), "give texts, or --file FILE"),
    (("--file", "f.jsonl", "text"), "not both"),
    (("--rail", "inptu", "x"), "did you mean 'input'?"),
    (("--batch-size", "0", "x"), "batch-size"),
    (("--file", "nowhere.jsonl"), "error: cannot read nowhere.jsonl: No such file or directory"),
    (("--policy", "nowhere.toml", "x"), "error: cannot read the policy file nowhere.toml"),
    (("--output", "no/such/folder", "x"), "error: cannot write no/such/folder"),
]


@pytest.mark.parametrize(("arguments", "message"), USAGE)
def test_mistakes_exit_with_2_and_a_reason(guardrail: Invoke, use: Use, arguments: Sequence[str], message: str) -> None:
    use(allow_all())
    result = guardrail("check", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_the_input_is_never_overwritten(guardrail: Invoke, use: Use, tmp_path: Path) -> None:
    use(allow_all())
    file = write(tmp_path / "f.jsonl", {"text": "precious"})
    assert guardrail("check", "--file", file, "--output", file).exit_code == 2
    assert "precious" in Path(file).read_text()
