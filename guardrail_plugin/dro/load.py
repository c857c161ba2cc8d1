"""Models and queries from files, for the command line and for scripts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.jsonl import read_objects
from guardrail_plugin.dro.draw import MODEL_KEY, named
from guardrail_plugin.models.chat import ChatSource
from guardrail_plugin.models.load import default_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_NOT_LINES = frozenset({".csv", ".tsv", ".json"})


def load_chat_model(
    model: str | None = None,
    *,
    revision: str | None = None,
    adapter: Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    offline: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a chat model and its tokenizer.

    The model goes by its hub id; one with an adapter goes by that and by the adapter's hash, since a soft prompt for
    one is not for the other. A folder has no name.

    Args:
        model: hub id or folder; the embedded model if not given.
        revision: commit, tag or branch of the hub repository.
        adapter: folder of a PEFT adapter to merge into it.
        device: the best there is if not given.
        dtype: of the weights, ``"bfloat16"`` for example; the device's usual one if not given.
            bfloat16 is faster than float32 on CPUs with AVX512-BF16, and much slower on others.

    Raises:
        ModelNotFoundError: the model is nowhere.
        ConfigError: the adapter's folder holds none; a revision is asked of a folder.
        MissingDependencyError: an extra is missing.
    """
    source = ChatSource.find(model, revision=revision, adapter=adapter, offline=offline)
    loaded = source.load(device=device or default_device(), dtype=dtype and getattr(torch, dtype))
    loaded.name_or_path = source.name or ""
    from transformers import AutoTokenizer

    return loaded, AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False)


def read_queries(path: Path) -> list[str]:
    """Return the queries of a file: one per line, or JSONL objects with a ``text``.

    Raises:
        ConfigError: the file is a table or one JSON value, cannot be read, or holds no query; a ``text`` is no string.
    """
    ending = path.suffix.lower()
    if ending in _NOT_LINES:
        raise ConfigError(f"{path}: queries are read from .jsonl or from plain text, one per line, not from {ending}")
    if ending == ".jsonl":
        queries = [row["text"] for row in _rows(path, "text")]
    else:
        queries = [line.strip() for line in _text(path).split("\n") if line.strip()]
    if not queries:
        raise ConfigError(f"{path} holds no query")
    return queries


def read_references(path: Path) -> list[tuple[str, str]]:
    """Return the (query, good answer) pairs of a JSONL file with ``text`` and ``response``.

    Rows whose answer is null or empty are passed over.

    Raises:
        ConfigError: the file cannot be read, a row lacks a query, an answer is no string, or no row has one.
    """
    pairs = [(row["text"], row["response"]) for row in _rows(path, "text", maybe="response") if row.get("response")]
    if not pairs:
        raise ConfigError(f"{path} holds no reference answer")
    return pairs


def read_drawn(path: Path, *, condition: str | None = None, drawn_by: str | None = None) -> dict[str, list[str]]:
    """Return the responses that a journal keeps, by query: those under one condition, or all.

    ``drawn_by`` is the ``drawer_sha256`` of a model: the responses of others are left out. A line that does not say
    whose it is counts as everybody's.

    Raises:
        ConfigError: the file cannot be read, or is not a journal.
    """
    wanted = None if drawn_by is None else named(drawn_by)
    drawn: dict[str, list[str]] = {}
    for row in _rows(path, "query", "responses", "condition"):
        if condition in (None, row["condition"]) and (wanted is None or row.get(MODEL_KEY, wanted) == wanted):
            drawn.setdefault(row["query"], []).extend(row["responses"])
    return drawn


def _rows(path: Path, *keys: str, maybe: str = "") -> Iterator[dict[str, Any]]:
    """Yield a JSONL file's objects; ``text``, and the key that a row may lack, are strings."""
    for number, row in read_objects(path):
        if any(row.get(key) is None for key in keys):
            raise ConfigError(f"{path}, line {number}: not a JSON object with {' and '.join(keys)}")
        for key in ("text", maybe):
            if not isinstance(row.get(key, ""), str | None):
                raise ConfigError(f'{path}, line {number}: "{key}" is not a string')
        yield row


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not text in UTF-8") from None
