"""No training text may stand in an evaluation file. Checked in code; a hit fails the run.

Compared are queries: what is judged on the input and tool rails, turns of eight words or more before it, and the query
that a response answers. The rules: equal (three words or more), a text of 20 characters or more contained in the other,
or a shared run of 8 words; case, width and punctuation ignored, letters, marks and digits of every script kept. Scripts
without spaces are compared by characters, of which several stand for a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from guardrail_plugin.training.rows import Example, read_jsonl

_MIN_CONTAINED_CHARS = 20
_MIN_EQUAL_WORDS = 3  # "thanks" is nobody's test item
_RUN_WORDS = 8
_NOT_WORD = re.compile(r"[\W_]+", re.UNICODE)
_HAN_AND_KANA = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_SOUTH_EAST = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
_SPACELESS = re.compile(f"([{_HAN_AND_KANA}{_SOUTH_EAST}])")
_LETTERS = re.compile(f"[{_SOUTH_EAST}]")
_IDEOGRAPHS_PER_WORD, _LETTERS_PER_WORD = 2, 4


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
        # A contained text of fewer than 8 words leaves no run, so it is looked for as a run of its own length.
        self._short: dict[int, dict[tuple[str, ...], str]] = {}
        for file, text in texts:
            words = normalised(text)
            joined, size = " ".join(words), _size(words)
            if size < _MIN_EQUAL_WORDS:
                continue
            self._equal.setdefault(joined, file)
            for run in _runs(words):
                self._runs.setdefault(run, file)
            if len(joined) >= _MIN_CONTAINED_CHARS and size < _RUN_WORDS:
                self._short.setdefault(len(words), {}).setdefault(tuple(words), file)

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

    def overlapping(self, examples: Sequence[Example]) -> dict[int, str]:
        """Return the examples of which some turn breaks a rule, and the evaluation file: index → name."""
        found: dict[int, str] = {}
        for i, example in enumerate(examples):
            for hit in self.hits(compared(example)):
                found.setdefault(i, hit.file)
        return found

    def _find(self, words: list[str]) -> tuple[str, str] | None:
        if (file := self._equal.get(" ".join(words))) is not None:
            return file, "equal"
        for run in _runs(words):
            if (file := self._runs.get(run)) is not None:
                return file, "words"
        for length, known in self._short.items():
            for start in range(len(words) - length + 1):
                if (file := known.get(tuple(words[start : start + length]))) is not None:
                    return file, "contains"
        return None


def normalised(text: str) -> list[str]:
    """Return a text's words in lower case without punctuation; of scripts without spaces, its characters."""
    if text.isascii():
        return _NOT_WORD.sub(" ", text.casefold()).split()
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _SPACELESS.sub(r" \1 ", _NOT_WORD.sub(_between, folded)).split()


def _between(found: re.Match[str]) -> str:
    """Return what stands between letters: vowel signs and accents, which re takes for none, stay with their word."""
    kept = (
        c for c in found[0] if unicodedata.category(c) != "Cf" and not unicodedata.name(c, "").startswith("VARIATION")
    )
    return "".join(c if unicodedata.category(c)[0] == "M" else " " for c in kept)


def compared(example: Example) -> list[str]:
    """Return what is compared: the query that a response answers, else the text itself; and the longer turns before it.

    A short turn ("How do I make meth?") stands in many a conversation and is not what is judged there.
    """
    query = example.query if example.rail == "output" and example.query is not None else example.text
    return [query, *(turn.text for turn in example.context if _size(normalised(turn.text)) >= _RUN_WORDS)]


def _size(words: Sequence[str]) -> float:
    """Return how many words these are, characters of scripts without spaces counted as parts of one."""
    return sum(map(_weight, words))


def _weight(word: str) -> float:
    if len(word) > 1 or word.isascii() or not _SPACELESS.match(word):
        return 1.0
    return 1 / (_LETTERS_PER_WORD if _LETTERS.match(word) else _IDEOGRAPHS_PER_WORD)


def _runs(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield every shortest run of at least 8 words."""
    weights = [_weight(word) for word in words]
    end, size = 0, 0.0
    for start, weight in enumerate(weights):
        while size < _RUN_WORDS and end < len(words):
            size += weights[end]
            end += 1
        if size < _RUN_WORDS:
            return
        yield tuple(words[start:end])
        size -= weight
