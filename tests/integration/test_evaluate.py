"""``guardrail evaluate`` and ``guardrail calibrate`` from the command line, with scripted guardians."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager

import pytest
import typer
from typer.testing import CliRunner

from guardrail_plugin.cli import calibrate as calibrate_command
from guardrail_plugin.cli import evaluate as evaluate_command
from guardrail_plugin.cli.session import Session
from guardrail_plugin.core.errors import PoolClosed
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.evals.suite import read_suite
from guardrail_plugin.pool import InferencePool
from guardrail_plugin.testing import ScriptedGuardian, verdict


@pytest.fixture
def app():
    found = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    evaluate_command.register(found)
    calibrate_command.register(found)
    return found


@pytest.fixture
def guardrail(app, monkeypatch):
    for variable in ("GUARDRAIL_POLICY", "GUARDRAIL_GUARDIAN"):
        monkeypatch.delenv(variable, raising=False)
    runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    return lambda *arguments: runner.invoke(app, [str(one) for one in arguments], catch_exceptions=False)


@pytest.fixture
def use(monkeypatch):
    """Make the commands judge with this guardian."""

    def put(guardian):
        @contextmanager
        def opened(source, *, policy=None, device=None, dtype="auto"):
            with InferencePool() as pool:
                yield Session(guardian, pool, None if policy is None else Policy.from_toml(policy))

        monkeypatch.setattr(evaluate_command, "open_session", opened)
        return guardian

    return put


def reads_risk(name="reads-risk", *, shift=0.0):
    def judge(check):
        return verdict(risk=min(1.0, max(0.0, float(check.text.partition("risk=")[2]) + shift)), hazard="S2")

    return ScriptedGuardian(judge, guardian_id=name)


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows(harmless=30, harmful=20):
    labels = [False] * harmless + [True] * harmful
    spread = [(i * 37 % 100) / 250 for i in range(len(labels))]
    return [
        {"id": f"r{i}", "text": f"canary {i} risk={0.15 + step + 0.4 * label:.4f}", "harmful": label}
        for i, (label, step) in enumerate(zip(labels, spread, strict=True))
    ]


def test_files_become_a_report(guardrail, use, tmp_path):
    use(reads_risk())
    path = write(tmp_path / "mine.jsonl", rows())

    result = guardrail("evaluate", path, "--out", tmp_path / "out", "--resamples", 100, "--quiet")

    assert result.exit_code == 0
    assert "reads-risk" in result.stdout
    assert "mine" in result.stdout
    assert "report.html" in result.stdout
    assert "canary" not in result.stdout
    for name in ("results.json", "table.md", "report.html", "scores/mine.jsonl"):
        assert (tmp_path / "out" / name).is_file(), name


def test_a_suite_is_one_option(guardrail, use, tmp_path):
    guardian = use(reads_risk())
    for entry in read_suite().files:
        category = entry.categories[0] if entry.categories else None
        pairs = [row | {"category": category, "id": f"{category}-{row['id']}"} for row in rows(30, 20)]
        if entry.path.startswith("responses/"):
            pairs = [row | {"response": row["text"], "response_harmful": row["harmful"]} for row in pairs]
        path = tmp_path / "data" / entry.path
        before = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
        write(path, before + pairs)

    result = guardrail(
        "evaluate", "--suite", tmp_path / "data", "--out", tmp_path / "out", "--resamples", 100, "--quiet"
    )

    assert result.exit_code == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert len(found["files"]) == len(read_suite().files)
    assert [one["rail"] for one in found["totals"]] == ["input", "output", "tool_output"]
    assert {check.rail for check in guardian.checks} == {"input", "output", "tool_output"}


def test_an_interrupted_run_goes_on(guardrail, use, tmp_path):
    path = write(tmp_path / "mine.jsonl", rows(200, 100))
    healthy = reads_risk()
    asked = 0

    def dies(check):
        nonlocal asked
        asked += 1
        return healthy.check_many([check])[0] if asked <= 128 else PoolClosed("gone")

    use(ScriptedGuardian(dies, guardian_id="reads-risk"))
    arguments = ("evaluate", path, "--out", tmp_path / "out", "--resamples", 100, "--quiet")
    first = guardrail(*arguments)
    again = use(reads_risk())
    second = guardrail(*arguments)

    assert (first.exit_code, second.exit_code) == (2, 0)
    assert "gone" in first.stderr
    assert len(again.checks) == 300 - 128  # two chunks had been kept


def test_a_baseline_is_measured_like_a_guardian(guardrail, tmp_path):
    bad, good = ([f"{words} {i}" for i in range(8)] for words in ("build bomb", "bake bread"))
    train = write(tmp_path / "train.jsonl", [{"text": text, "harmful": text in bad} for text in bad + good])
    test = write(tmp_path / "test.jsonl", [{"text": text, "harmful": text == "a bomb"} for text in ("a bomb", "bread")])

    result = guardrail(
        "evaluate", test, "--guardian", "baseline:tfidf", "--train", train, "--out", tmp_path / "out",
        "--resamples", 100, "--quiet",
    )  # fmt: skip

    assert result.exit_code == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert found["guardian"].startswith("baseline-tfidf-")
    assert found["files"][0]["metrics"]["auroc"]["value"] == 1.0
    assert found["files"][0]["metrics"]["hazard_accuracy"]["value"] is None


def test_two_runs_are_compared(guardrail, use, tmp_path):
    path = write(tmp_path / "mine.jsonl", rows())
    for name, shift in (("a", 0.0), ("b", 0.2)):
        use(reads_risk(name, shift=shift))
        assert guardrail("evaluate", path, "--out", tmp_path / name, "--resamples", 100, "--quiet").exit_code == 0

    result = guardrail("evaluate", "--compare", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "cmp")

    assert result.exit_code == 0
    assert "worse" in result.stdout
    assert "B - A" in result.stdout
    assert (tmp_path / "cmp" / "compare.html").is_file()


def test_a_calibrated_policy_does_in_an_evaluation_what_it_promised(guardrail, use, tmp_path):
    use(reads_risk())
    path = write(tmp_path / "mine.jsonl", rows(300, 60))
    policy = tmp_path / "policy.toml"

    fitted = guardrail("calibrate", "--data", path, "--max-fpr", 0.05, "--out", policy, "--quiet")
    assert fitted.exit_code == 0
    assert "with 95 % confidence" in fitted.stderr
    evaluated = guardrail(
        "evaluate", path, "--policy", policy, "--out", tmp_path / "out", "--resamples", 100, "--quiet"
    )

    assert evaluated.exit_code == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert 0.03 < found["files"][0]["metrics"]["fpr"]["value"] <= 0.05
    assert found["policy"] == Policy.from_toml(policy).version


def test_calibrate_prints_the_policy_and_nothing_else_to_stdout(guardrail, use, tmp_path):
    use(reads_risk())
    path = write(tmp_path / "mine.jsonl", rows(300, 60))

    result = guardrail("calibrate", "--data", f"{path}:document", "--max-fpr", 0.05, "--quiet")

    assert result.exit_code == 0
    assert Policy.from_toml(result.stdout).rails["document"].threshold is not None


def test_a_policy_that_cannot_be_written_is_printed(guardrail, use, tmp_path):
    use(reads_risk())
    path = write(tmp_path / "mine.jsonl", rows(300, 60))

    result = guardrail("calibrate", "--data", path, "--max-fpr", 0.05, "--out", path / "policy.toml", "--quiet")

    assert result.exit_code == 2
    assert "cannot write" in result.stderr
    assert Policy.from_toml(result.stdout).rails["input"].threshold is not None


def test_a_policy_file_is_not_overwritten_unasked(guardrail, use, tmp_path):
    use(reads_risk())
    path = write(tmp_path / "mine.jsonl", rows(300, 60))
    policy = tmp_path / "policy.toml"
    policy.write_text("mine", encoding="utf-8")
    arguments = ("calibrate", "--data", path, "--max-fpr", 0.05, "--out", policy, "--quiet")

    refused = guardrail(*arguments)
    assert (refused.exit_code, policy.read_text(encoding="utf-8")) == (2, "mine")
    assert guardrail(*arguments, "--force").exit_code == 0
    assert Policy.from_toml(policy).rails


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["evaluate"], "--out"),
        (["evaluate", "--out", "{tmp}/out"], "--suite"),
        (["evaluate", "{tmp}/gone.jsonl", "--out", "{tmp}/out"], "cannot read"),
        (["evaluate", "{tmp}/bad.jsonl", "--out", "{tmp}/out"], "bad.jsonl, line 2: not JSON"),
        (["evaluate", "{tmp}/bad.jsonl:inptu", "--out", "{tmp}/out"], "did you mean 'input'"),
        (["evaluate", "--suite", "{tmp}", "--out", "{tmp}/out"], "lacks files of the suite"),
        (["evaluate", "--compare", "{tmp}/a", "{tmp}/b"], "guardrail evaluate"),
        (["evaluate", "{tmp}/ok.jsonl", "--out", "{tmp}/out", "--guardian", "baseline:tfidf"], "--train"),
        (["evaluate", "{tmp}/ok.jsonl", "--out", "{tmp}/out", "--train", "x.jsonl"], "guardrail train"),
        (["calibrate", "--data", "{tmp}/ok.jsonl"], "cannot support a false-positive rate of 1 %"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(guardrail, use, tmp_path, arguments, problem):
    use(reads_risk())
    write(tmp_path / "ok.jsonl", rows())
    (tmp_path / "bad.jsonl").write_text('{"text": "a", "harmful": true}\n{"text": \n', encoding="utf-8")

    result = guardrail(*(argument.format(tmp=tmp_path) for argument in arguments))

    assert result.exit_code == 2
    assert problem in result.stderr
    assert "Traceback" not in result.stderr


def test_importing_the_commands_loads_no_heavy_library():
    code = (
        "import sys, guardrail_plugin.cli.evaluate, guardrail_plugin.cli.calibrate, guardrail_plugin.evals\n"
        "print([m for m in ('torch', 'transformers', 'sklearn', 'matplotlib', 'jinja2', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == "[]"
