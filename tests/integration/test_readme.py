"""README code runs as printed."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool

from guardrail_plugin.assembly.described import Described
from guardrail_plugin.core.settings import parse_toml

pytestmark = pytest.mark.model

README = Path(__file__).parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def own_logs() -> Iterator[None]:
    """Undo what ``log_json`` does to the loggers of this process."""
    loggers = [logging.getLogger(name) for name in ("guardrail_plugin", "guardrail_gateway", "uvicorn")]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.mark.usefixtures("own_logs")
def test_python_blocks_run(embedded_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from guardrail_plugin import Guardian, InferencePool

    monkeypatch.chdir(tmp_path)
    policy, _ = blocks("toml")
    (tmp_path / "policy.toml").write_text(policy, encoding="utf-8")
    prompt = ChatPromptTemplate.from_messages([("user", "{question}")])
    model, parser = FakeListChatModel(responses=["ok"]), StrOutputParser()
    first, *others = blocks("python")

    @tool
    def search(query: str) -> str:
        """Search the web."""
        return f"Nothing about {query}."

    retriever = RunnableLambda(lambda _: [Document("Bread needs flour, water and time.")])
    names: dict[str, Any] = {"prompt": prompt, "model": model, "parser": parser, "chain": prompt | model | parser}
    names |= {"search": search, "retriever": retriever}
    exec(compile(first, "README.md", "exec"), names)  # noqa: S102
    with InferencePool() as pool:
        names["guardian"] = Guardian.load(pool=pool, offline=True)
        for block in others:
            exec(compile(block, "README.md", "exec"), names)  # noqa: S102
        assert names["verdict"].harmful
        assert names["safe"].invoke({"question": "What is the capital of France?"})
        assert names["search"].invoke({"query": "bread"})
        assert len(names["docs"].invoke("bread")) <= 1


def test_the_guardian_file_is_one() -> None:
    described = Described(**parse_toml(blocks("toml")[1], name="README"))
    assert described.cascade is not None
    assert described.cascade.second.family == "llama-guard-3"


def test_every_make_target_that_it_names_exists() -> None:
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README.read_text(encoding="utf-8"), re.MULTILINE))
    assert {"demo", "test"} <= named
    assert named <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
