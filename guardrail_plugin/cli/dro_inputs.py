"""What the ``guardrail dro`` commands start from: a model, a prompt, sets of queries, a second judge."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from guardrail_plugin.core.errors import ConfigError

if TYPE_CHECKING:
    from guardrail_plugin.dro import Anchor, Answer, SoftPrompt
    from guardrail_plugin.dro.evaluate import Judge

Source: TypeAlias = tuple[str | None, Path | None, str | None]
"""Model, adapter, device."""

_TELLING_APART: tuple[Callable[[Path], str], ...] = (
    lambda path: path.name.partition(".")[0],
    lambda path: path.name.removesuffix(".safetensors"),
    lambda path: f"{path.resolve().parent.name}-{path.name.removesuffix('.safetensors')}",
)


def load_source(source: Source) -> tuple[Any, Any]:
    """Return model and tokenizer."""
    from guardrail_plugin.dro.load import load_chat_model

    model, adapter, device = source
    return load_chat_model(model, adapter=adapter, device=device)


def placed_prompt(prompt: str | None, soft: Path | None) -> str | SoftPrompt | None:
    """Return what stands where a system message does."""
    from guardrail_plugin.dro import SoftPrompt
    from guardrail_plugin.dro.prompts import NO_PROMPT, prompt_text

    if prompt is not None and soft is not None:
        raise ConfigError("--prompt and --soft exclude each other: a model has one system message")
    if soft is not None:
        return SoftPrompt.load(soft)
    return None if prompt in (None, NO_PROMPT) else prompt_text(prompt)


def query_sets(paths: Sequence[Path], *, limit: int | None) -> dict[str, list[str]]:
    """Return the first queries of each file by its name; files of one name are told apart by their folders."""
    from guardrail_plugin.dro.load import read_queries
    from guardrail_plugin.evals.dataset import EvalFile
    from guardrail_plugin.evals.suite import with_unique_names

    named = with_unique_names([EvalFile(path) for path in paths])
    return {file.name: read_queries(file.path)[:limit] for file in named}


def panel_names(paths: Sequence[Path], *, taken: Collection[str]) -> dict[str, Path]:
    """Return soft prompts' files by what a figure calls them: no two alike, and none like one of the anchor's prompts.

    Raises:
        ConfigError: a file is named twice, or two are called alike in folders that are.
    """
    for tell in _TELLING_APART:
        names = [tell(path) for path in paths]
        if len({*names, *taken}) == len(names) + len(taken):
            return dict(zip(names, paths, strict=True))
    raise ConfigError("a figure cannot tell these soft prompts apart: name each once, or rename a file")


def named_source(source: Source) -> dict[str, str | None]:
    """Say in a report which model was measured."""
    from guardrail_plugin.models.locate import EMBEDDED_MODEL

    model, adapter, _ = source
    return {"model": model or EMBEDDED_MODEL, "adapter": None if adapter is None else str(adapter)}


@contextmanager
def second_judge(guardian: str | None, *, wanted: bool, device: str | None) -> Iterator[Judge | None]:
    """Open the guardian that judges responses, where one is wanted."""
    if not wanted:
        yield None
        return
    from guardrail_plugin.cli.session import open_session
    from guardrail_plugin.dro import guardian_judge

    with open_session(guardian, device=device) as session:
        yield guardian_judge(session.guardian)


def drawn_answers(drawn: Path, anchor: Anchor, *, drawn_by: str) -> list[Answer]:
    """Return the answers of a journal that vanilla prompt tuning learns from: this model's, to the anchor's queries.

    Raises:
        ConfigError: it has none.
    """
    from guardrail_plugin.dro import answers_from
    from guardrail_plugin.dro.load import read_drawn

    responses = read_drawn(drawn, drawn_by=drawn_by)
    kinds = ((anchor.harmful, True), (anchor.harmless, False))
    known = [({q: responses[q] for q in queries if q in responses}, bad) for queries, bad in kinds]
    answers = [answer for found, bad in known for answer in answers_from(found, harmful=bad)]
    if not answers:
        raise ConfigError(
            f"{drawn} holds no answer of this model to the anchor's queries; draw them with: guardrail dro fit"
        )
    return answers
