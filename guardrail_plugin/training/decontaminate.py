"""No training text may stand in an evaluation file. Checked in code; a hit fails the run.

Compared are queries: what is judged on the input and tool rails, and the query that a response answers. The rules:
equal (three words or more), a text of 20 characters or more contained in the other, or a shared run of 8 words; case
and punctuation ignored, letters and digits of every script kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from guardrail_plugin.training.rows import Example, read_jsonl

_MIN_CONTAINED_CHARS = 20
_MIN_EQUAL_WORDS = 3  # "thanks" is nobody's test item
_RUN_WORDS = 8
_NOT_WORD = re.compile(r"[\W_]+", re.UNICODE)


@dataclass(frozen=True, slots=True)
class Hit:
    """One training text that is too close to an evaluation text. Holds places, not texts.

    Attributes:
        index: of the training text.
        file: the evaluation file.
        rule: ``"equal"``, ``"contains"`` or ``"words"``.
    """

    index: int
    file: str
    rule: str


class Evaluation:
    """The evaluation texts, indexed once."""

    def __init__(self, texts: Iterable[tuple[str, str]]) -> None:
        """Index (file, text) pairs."""
        self._equal: dict[str, str] = {}
        self._runs: dict[tuple[str, ...], str] = {}
        for file, text in texts:
            words = normalised(text)
            if len(words) < _MIN_EQUAL_WORDS:
                continue
            self._equal.setdefault(" ".join(words), file)
            for start in range(len(words) - _RUN_WORDS + 1):
                self._runs.setdefault(tuple(words[start : start + _RUN_WORDS]), file)
        # A contained text of fewer than 8 words leaves no run, so it is looked for as a run of its own length.
        self._short: dict[int, dict[tuple[str, ...], str]] = {}
        for text, file in self._equal.items():
            words = text.split(" ")
            if len(text) >= _MIN_CONTAINED_CHARS and len(words) < _RUN_WORDS:
                self._short.setdefault(len(words), {})[tuple(words)] = file

    @classmethod
    def of_files(cls, files: Sequence[Path]) -> Evaluation:
        """Read the queries of evaluation files.

        Raises:
            ConfigError: a file is missing or malformed.
        """
        rows = ((file.name, row.get("text")) for file in files for row in read_jsonl(file))
        return cls((name, text) for name, text in rows if isinstance(text, str))

    def hits(self, texts: Sequence[str]) -> list[Hit]:
        """Return every training text that breaks a rule, once each."""
        return [Hit(i, *found) for i, text in enumerate(texts) if (found := self._find(normalised(text))) is not None]

    def _find(self, words: list[str]) -> tuple[str, str] | None:
        if (file := self._equal.get(" ".join(words))) is not None:
            return file, "equal"
        for start in range(len(words) - _RUN_WORDS + 1):
            if (file := self._runs.get(tuple(words[start : start + _RUN_WORDS]))) is not None:
                return file, "words"
        for length, known in self._short.items():
            for start in range(len(words) - length + 1):
                if (file := known.get(tuple(words[start : start + length]))) is not None:
                    return file, "contains"
        return None


def normalised(text: str) -> list[str]:
    """Return a text's words in lower case without punctuation."""
    return _NOT_WORD.sub(" ", text.casefold()).split()


def query_of(example: Example) -> str:
    """Return what is compared: the query that a response answers, else the text itself."""
    return example.query if example.rail == "output" and example.query is not None else example.text
