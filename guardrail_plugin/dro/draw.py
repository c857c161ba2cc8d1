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
from guardrail_plugin.dro.sample import Sampler
from guardrail_plugin.models.chat_template import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Journal:
    """Responses by key, in memory and, with a path, in a file that grows by one line per query.

    A line that was cut off by a kill is dropped; its query is drawn again.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Read what the file already has.

        Raises:
            ConfigError: the file exists and is not a journal.
        """
        self._path = path
        self._responses: dict[str, list[str]] = {}
        if path is not None and path.is_file():
            self._read(path)

    def get(self, key: str) -> list[str] | None:
        """Return the responses to a query, or ``None``."""
        return self._responses.get(key)

    def put(self, key: str, responses: Sequence[str], **described: str) -> None:
        """Keep the responses to a query; ``described`` is for people who read the file."""
        self._responses[key] = list(responses)
        if self._path is not None:
            line = json.dumps({"key": key, **described, "responses": list(responses)}, ensure_ascii=False)
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")

    def _read(self, path: Path) -> None:
        raw = path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        try:
            entries = [json.loads(line) for line in whole.decode("utf-8").splitlines()]
            self._responses |= {entry["key"]: entry["responses"] for entry in entries}
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{path} is not a file of drawn responses") from None
        if len(whole) < len(raw):
            path.write_bytes(whole)


class Drawer:
    """Draws responses, or takes them from the journal."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        sampling: Sampling,
        journal: Journal | None = None,
    ) -> None:
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
            self._journal.put(keys[i], texts, condition=condition, query=queries[i])
            if progress is not None:
                progress(1)
        return [self._journal.get(key) or [] for key in keys]

    def _key(self, row: Row, soft: Tensor | None) -> str:
        """Return a hash of all that a response depends on; it says nothing of the query."""
        digest = hashlib.sha256(f"{row.ids}:{row.at}:{self._settings}".encode())
        if soft is not None:
            digest.update(soft.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()
