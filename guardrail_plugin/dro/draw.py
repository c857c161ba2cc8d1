"""Responses, drawn once and kept in a JSONL file, so that a stopped run goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.dro.config import Sampling
from guardrail_plugin.dro.identity import model_sha256, tokenizer_sha256
from guardrail_plugin.dro.sample import Sampler, stop_ids
from guardrail_plugin.dro.writing import writing
from guardrail_plugin.models.chat_template import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MODEL_KEY = "model"
"""In a line of a journal: the model that drew its responses, by ``named``."""


class Journal:
    """Responses by key, in memory and, with a path, in a file that grows by one line per query.

    A line that was cut off by a kill is dropped; its query is drawn again.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Read what the file already has.

        Raises:
            ConfigError: the file exists and cannot be read, or is not a journal.
        """
        self._path = path
        self._responses: dict[str, list[str]] = {}
        if path is not None and path.is_file():
            self._read(path)

    def get(self, key: str) -> list[str] | None:
        """Return the responses to a query, or ``None``."""
        return self._responses.get(key)

    def put(self, key: str, responses: Sequence[str], **described: str) -> None:
        """Keep the responses to a query; ``described`` is for people who read the file.

        Raises:
            ConfigError: the file cannot be written.
        """
        self._responses[key] = list(responses)
        if self._path is not None:
            # In ASCII: a model can write half of a surrogate pair, and what readers take for the end of a line.
            line = json.dumps({"key": key, **described, "responses": list(responses)})
            with writing(self._path), self._path.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")

    def _read(self, path: Path) -> None:
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None
        whole = raw[: raw.rfind(b"\n") + 1]
        try:
            # Not splitlines, which also ends lines at U+2028 and others that JSON allows within a string.
            entries = [json.loads(line) for line in whole.decode("utf-8").split("\n") if line.strip()]
            self._responses |= {entry["key"]: entry["responses"] for entry in entries}
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{path} is not a file of drawn responses") from None
        if len(whole) < len(raw):
            path.write_bytes(whole)


def drawer_sha256(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of all that makes a model's responses its own: weights, vocabulary, the ids that end its turn."""
    said = f"{model_sha256(model)}:{tokenizer_sha256(tokenizer)}:{sorted(stop_ids(model, tokenizer))}"
    return hashlib.sha256(said.encode()).hexdigest()


def named(drawn_by: str) -> str:
    """Return what a journal calls a model, of its ``drawer_sha256``."""
    return drawn_by[:8]


class Drawer:
    """Draws responses, or takes those of this very model from the journal."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        sampling: Sampling,
        journal: Journal | None = None,
        drawn_by: str | None = None,
    ) -> None:
        """Hash the model, unless ``drawn_by`` already is its ``drawer_sha256``."""
        self._drawn_by = drawn_by or drawer_sha256(model, tokenizer)
        self._sampler = Sampler(model, tokenizer, sampling=sampling)
        self._settings = sampling.model_dump_json(exclude={"rows"})
        self._journal = journal or Journal()

    def draw(
        self,
        rows: Sequence[Row],
        queries: Sequence[str],
        *,
        condition: str,
        soft: Tensor | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> list[list[str]]:
        """Return k responses per row.

        Args:
            rows: one conversation per query, under one condition.
            queries: for people who read the journal.
            condition: likewise.
            soft: (L, d), for rows that leave a place for it.
            progress: told the number of queries that are done.
        """
        keys = [self._key(row, soft) for row in rows]
        missing = [i for i, key in enumerate(keys) if self._journal.get(key) is None]
        if progress is not None:
            progress(len(rows) - len(missing))
        for i, texts in zip(missing, self._sampler.responses([rows[i] for i in missing], soft), strict=True):
            described = {"condition": condition, "query": queries[i], MODEL_KEY: named(self._drawn_by)}
            self._journal.put(keys[i], texts, **described)
            if progress is not None:
                progress(1)
        return [self._journal.get(key) or [] for key in keys]

    def _key(self, row: Row, soft: Tensor | None) -> str:
        """Return a hash of all that a response depends on; it says nothing of the query."""
        digest = hashlib.sha256(f"{self._drawn_by}:{row.ids}:{row.at}:{self._settings}".encode())
        if soft is not None:
            digest.update(soft.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()
