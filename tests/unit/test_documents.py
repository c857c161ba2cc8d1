"""What the documents name exists: files, headings, commands, options, extras, variables."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("typer")

from guardrail_plugin.core.settings import read_toml

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
FOLDERS = ("guardrail_plugin", "integrations", "examples")
DOCUMENTS = (README, *sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.md")))
_LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(#[^)\s]+)?\)")
_CODE = re.compile(r"```.*?```", re.DOTALL)


def named(document: Path) -> str:
    return str(document.relative_to(ROOT))


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _CODE.sub("", document.read_text(encoding="utf-8")), re.MULTILINE)
    return {"#" + re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def command_lines(document: Path) -> Iterator[list[str]]:
    """Yield the words of every ``guardrail ...`` line of a console block, and of inline code with an option."""
    text = document.read_text(encoding="utf-8")
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("guardrail "):
                yield shlex.split(line.partition("  #")[0].partition(" > ")[0])[1:]
    for code in re.findall(r"`(guardrail [a-z][^`|]*)`", _CODE.sub("", text)):
        yield shlex.split(code.partition("...")[0].replace("\n", " "))[1:]


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_links_lead_somewhere(document: Path) -> None:
    for path, anchor in _LINK.findall(_CODE.sub("", document.read_text(encoding="utf-8"))):
        target = document.parent / path if path else document
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), path + anchor


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_commands_and_options_exist(document: Path) -> None:
    import typer

    from guardrail_plugin.cli.app import app

    root = typer.main.get_command(app)
    for words in command_lines(document):
        command = root
        while words and words[0] in getattr(command, "commands", {}):
            command = getattr(command, "commands")[words.pop(0)]  # noqa: B009 - click's groups alone have it
        assert command is not root, words
        options = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        asked = {word for word in words if word.startswith("--")}
        assert asked <= options | {"--help"}, (command.name, asked - options)


@pytest.mark.parametrize("command", ["bench run", "export", "calibrate"])
def test_examples_give_what_a_command_requires(command: str) -> None:
    import typer

    from guardrail_plugin.cli.app import app

    found = typer.main.get_command(app)
    for word in command.split():
        found = getattr(found, "commands")[word]  # noqa: B009
    required = {one.opts[0] for one in found.params if one.required and one.opts[0].startswith("--")}
    lines = [words for words in command_lines(README) if words[: len(command.split())] == command.split()]
    lines = [words for words in lines if len(words) > len(command.split())]
    assert lines
    for words in lines:
        assert required <= set(words), (command, required - set(words))


def test_the_table_of_extras_is_whole() -> None:
    project = read_toml(ROOT / "pyproject.toml", what="project")["project"]
    rows = re.findall(r"^\| (`[^|]+`) \| [^|]+\|$", README.read_text(encoding="utf-8"), re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`([a-z]+)`", row)}
    assert told == set(project["optional-dependencies"]) - {"dev"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_extras_and_variables_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    extras = set(read_toml(ROOT / "pyproject.toml", what="project")["project"]["optional-dependencies"])
    for group in re.findall(r'(?:guardrail-plugin|"\.)\[([a-z,]+)\]', text):
        assert set(group.split(",")) <= extras, group
    sources = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "guardrail_plugin" / "cli").glob("*.py"))
    for variable in set(re.findall(r"GUARDRAIL_[A-Z_]+", text)):
        assert f'"{variable}"' in sources, variable
