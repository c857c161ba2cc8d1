"""``guardrail dro`` from queries to figures, on a tiny random model: fit, train, evaluate, plot, inspect, resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
typer = pytest.importorskip("typer")

from typer.testing import CliRunner  # noqa: E402

from guardrail_plugin.cli import dro_steps  # noqa: E402
from guardrail_plugin.cli.dro import register  # noqa: E402
from guardrail_plugin.cli.dro_inputs import panel_names  # noqa: E402
from guardrail_plugin.core.errors import ConfigError  # noqa: E402
from guardrail_plugin.dro import Anchor, SoftPrompt  # noqa: E402

Run = Callable[..., dict[str, Any]]
THINGS = ("car", "bank", "lock", "safe", "door", "shop", "farm", "bus", "hut", "pub")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Queries and reference answers."""
    folder = tmp_path_factory.mktemp("dro")
    (folder / "harmful.txt").write_text("".join(f"burn the {thing} down\n" for thing in THINGS))
    (folder / "harmless.jsonl").write_text("".join(json.dumps({"text": f"paint my {t} blue"}) + "\n" for t in THINGS))
    pairs = [{"text": f"what is a {thing}?", "response": f"a {thing} is a thing."} for thing in THINGS]
    (folder / "references.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (folder / "config.toml").write_text("epochs = 3\nbatch_size = 10\n")
    return folder


@pytest.fixture(scope="module")
def run(tiny_base: Path) -> Run:
    """Run a command of ``guardrail dro`` on the tiny model and return its JSON."""
    app = typer.Typer()
    register(app)

    @app.callback()
    def root() -> None:
        pass

    def invoke(command: str, *arguments: object, model: bool = True, fails: bool = False) -> dict[str, Any]:
        line = ["dro", command, *map(str, arguments)]
        line += ["--model", str(tiny_base), "--device", "cpu"] if model else []
        result = CliRunner().invoke(app, line if fails else [*line, "--json"])
        assert (result.exit_code != 0) == fails, result.output
        if fails:
            return {"error": " ".join(result.output.split())}
        answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        return answer

    return invoke


@pytest.fixture(scope="module")
def anchor(workspace: Path, run: Run) -> Path:
    """An anchor, fitted on responses of which every third refuses."""
    out = workspace / "anchor.safetensors"
    fit = ["--harmful", workspace / "harmful.txt", "--harmless", workspace / "harmless.jsonl", "--out", out]
    fit += ["--prompt", "short", "--samples", "3", "--max-new-tokens", "2", "--quiet"]
    told = run("fit", *fit, fails=True)["error"]  # random words never refuse
    assert "nothing to learn" in told
    drawn = workspace / "anchor.drawn.jsonl"
    lines = [json.loads(line) for line in drawn.read_text().splitlines()]
    assert len(lines) == 40  # twenty queries with no prompt and with one
    for number, line in enumerate(lines):
        line["responses"][0] = "I cannot help with that." if number % 2 else "Sure."
    drawn.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = run("fit", *fit)
    assert report["conditions"] == ["none", "short"]
    assert report["refused_harmful"] == pytest.approx(1 / 6)
    return out


@pytest.fixture(scope="module")
def soft(workspace: Path, run: Run, anchor: Path) -> Path:
    """A trained soft prompt."""
    out = workspace / "tiny.soft.safetensors"
    settings = ["--config", workspace / "config.toml", "--init", "short", "--seed", "3"]
    report = run("train", "--anchor", anchor, "--out", out, *settings, "--quiet")
    assert report["seed"] == 3
    assert report["metrics"]["steps"] == 6
    return out


def test_training_again_gives_the_same_file(workspace: Path, run: Run, anchor: Path, soft: Path) -> None:
    settings = ["--config", workspace / "config.toml", "--init", "short", "--seed", "3"]
    run("train", "--anchor", anchor, "--out", workspace / "again.safetensors", *settings, "--quiet")
    assert (workspace / "again.safetensors").read_bytes() == soft.read_bytes()
    assert not list(workspace.glob("*.checkpoint"))


def test_the_vanilla_baseline_learns_from_the_drawn_responses(workspace: Path, run: Run, anchor: Path) -> None:
    drawn = workspace / "anchor.drawn.jsonl"
    settings = ["--vanilla", drawn, "--config", workspace / "config.toml", "--init", "short", "--quiet"]
    report = run("train", "--anchor", anchor, "--out", workspace / "vpt.safetensors", *settings)
    assert report["method"] == "vanilla"


def test_another_models_responses_are_not_learned_from(workspace: Path, run: Run, anchor: Path) -> None:
    lines = [json.loads(line) for line in (workspace / "anchor.drawn.jsonl").read_text().splitlines()]
    others, nobodys = workspace / "others.drawn.jsonl", workspace / "nobodys.drawn.jsonl"
    others.write_text("".join(json.dumps(line | {"model": "01234567"}) + "\n" for line in lines))
    nobodys.write_text("".join(json.dumps({k: v for k, v in line.items() if k != "model"}) + "\n" for line in lines))
    settings = ["--anchor", anchor, "--config", workspace / "config.toml", "--init", "short", "--quiet"]
    told = run("train", *settings, "--out", workspace / "x.safetensors", "--vanilla", others, fails=True)["error"]
    assert "no answer of this model" in told
    assert not (workspace / "x.safetensors").exists()
    report = run("train", *settings, "--out", workspace / "y.safetensors", "--vanilla", nobodys)
    assert report["method"] == "vanilla"


def test_a_journal_that_is_none_is_told_before_the_model_is_loaded(
    workspace: Path, run: Run, anchor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(dro_steps, "load_source", load)
    options = ["--anchor", anchor, "--out", workspace / "x.safetensors"]
    told = run("train", *options, "--vanilla", workspace / "harmless.jsonl", fails=True)["error"]
    assert "query and responses and condition" in told


def test_no_prompt_goes_by_its_name(workspace: Path, run: Run) -> None:
    options = ["--harmful", workspace / "harmful.txt", "--no-judge", "--limit", "2", "--drawn", "1", "--quiet"]
    without, named = run("evaluate", *options), run("evaluate", *options, "--prompt", "none")
    assert named["sets"] == without["sets"]


def test_a_figures_panels_are_told_apart(tmp_path: Path) -> None:
    taken = {"none", "default"}
    one, other = tmp_path / "a" / "x.soft.safetensors", tmp_path / "b" / "x.soft.safetensors"
    assert panel_names([one], taken=taken) == {"x": one}
    assert panel_names([one, other], taken=taken) == {"a-x.soft": one, "b-x.soft": other}
    assert list(panel_names([tmp_path / "default.soft.safetensors"], taken=taken)) == ["default.soft"]
    assert list(panel_names([tmp_path / "a" / "default.safetensors"], taken=taken)) == ["a-default"]
    with pytest.raises(ConfigError, match="name each once"):
        panel_names([one, one], taken=taken)


@pytest.mark.parametrize("placed", ["none", "text", "soft"])
def test_a_prompt_is_measured_and_responses_are_kept(
    workspace: Path, run: Run, soft: Path, tiny_base: Path, placed: str
) -> None:
    out = workspace / f"report-{placed}.json"
    options = {"none": [], "text": ["--prompt", "short"], "soft": ["--soft", soft]}[placed]
    options += ["--harmful", workspace / "harmful.txt", "--harmless", workspace / "harmless.jsonl", "--no-judge"]
    options += ["--references", workspace / "references.jsonl", "--limit", "2", "--drawn", "2", "--kept", "1"]
    report = run("evaluate", *options, "--out", out, "--quiet")
    assert [(one["name"], one["queries"], one["samples"]) for one in report["sets"]] == [
        ("harmful", 2, 2),
        ("harmless", 2, 2),
    ]
    assert report["perplexity"] > 1
    assert report["sets"][0]["interval95"][1] < 1 or report["sets"][0]["hits"] == 2
    assert json.loads(out.read_text()) == report
    assert (report["model"], report["adapter"], report["limit"]) == (str(tiny_base), None, 2)
    journal = workspace / f"report-{placed}.drawn.jsonl"
    before = journal.read_text()
    assert run("evaluate", *options, "--out", out, "--quiet") == report
    assert journal.read_text() == before


def test_files_of_one_name_are_all_measured_and_folders_are_made(workspace: Path, run: Run) -> None:
    options: list[object] = ["--drawn", "1", "--no-judge", "--quiet"]
    for folder in ("a", "b"):
        (workspace / folder).mkdir()
        (workspace / folder / "x.txt").write_text(f"burn {folder}\n")
        options += ["--harmful", workspace / folder / "x.txt"]
    out = workspace / "deep" / "er" / "report.json"
    report = run("evaluate", *options, "--out", out)
    assert [one["name"] for one in report["sets"]] == ["a-x", "b-x"]
    assert report["settings"]["kept"] == 1
    assert json.loads(out.read_text()) == report
    assert len((out.parent / "report.drawn.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("command", ["fit", "train", "evaluate", "plot"])
def test_what_cannot_be_written_is_told_before_the_model_is_loaded(
    workspace: Path, run: Run, anchor: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(dro_steps, "load_source", load)
    queries = ["--harmful", workspace / "harmful.txt", "--harmless", workspace / "harmless.jsonl"]
    options = queries if command in ("fit", "evaluate") else ["--anchor", anchor]
    out = workspace / "harmful.txt" / "out"
    assert "cannot write" in run(command, *options, "--out", out, fails=True)["error"]


def test_figures_are_drawn(workspace: Path, run: Run, anchor: Path, soft: Path) -> None:
    pytest.importorskip("matplotlib")
    report = run("plot", "--anchor", anchor, "--soft", soft, "--out", workspace / "figure.png")
    names = [Path(file).name for file in report["files"]]
    assert names == ["figure.png", "figure.svg", "figure.tiny.curves.png", "figure.tiny.curves.svg"]
    assert all(Path(file).stat().st_size > 1000 for file in report["files"])


def test_files_are_described(run: Run, anchor: Path, soft: Path) -> None:
    assert run("inspect", anchor, model=False)["harmful"] == 10
    described = run("inspect", soft, model=False)
    assert (described["method"], described["width"]) == ("dro", 32)
    assert described["tokens"] == len(SoftPrompt.load(soft))
    assert len(Anchor.load(anchor).queries) == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--anchor", "absent", "--out", "x"], "there is no file"),
        (["evaluate", "--prompt", "short", "--soft", "x"], "exclude each other"),
        (["evaluate", "--harmful", "absent.txt"], "cannot read"),
        (["evaluate", "--prompt", "short"], "nothing to measure"),
        (["evaluate", "--prompt", "mistrall"], "did you mean 'mistral'?"),
        (["evaluate", "--drawn", "2", "--kept", "3"], "more than the 2 drawn"),
        (["evaluate", "--harmful", "same.txt", "--harmful", "same.txt"], "named twice"),
        (["train", "--anchor", "absent", "--out", "x", "--init", "Default"], "did you mean 'default'?"),
        (["train", "--anchor", "absent", "--out", "x", "--init", "none"], "what no prompt is called"),
        (["fit", "--harmful", "absent.txt", "--harmless", "absent.txt", "--out", "x"], "cannot read"),
        (["plot", "--anchor", "absent", "--out", "x"], "there is no file"),
    ],
)
def test_mistakes_are_told_in_one_line(run: Run, arguments: list[str], message: str) -> None:
    assert message in run(*arguments, fails=True)["error"]
