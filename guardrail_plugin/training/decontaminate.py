"""No training text may stand in an evaluation file. Checked in code; a hit fails the run.

Compared with evaluation queries are: what is judged on the input and tool rails, turns of eight words or more before
it, and the query that a response answers. Compared with the responses that evaluation files label are: responses of the
output rail. The rules: equal, an evaluation text that stands whole in the training text, or a shared run of words; from
what length on, ``_QUERIES`` and ``_ANSWERS`` say. Case, width and punctuation are ignored, letters, marks and digits of
every script kept. Scripts without spaces are compared by characters, of which several stand for a word.

Refusals (``core.refusal``) are compared on neither side, whatever their length: one chat model declines in the same
words whatever it is asked. So the recipe "default" keeps 449 of 2042 answers of gptfuzz_labeled_train that stand word
for word in an evaluation file, 150 times in gptfuzz_labeled_eval (of 835 harmless answers) and 4 times in
harmbench_response. Answers need longer runs than queries, because what they share is mostly such phrases.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guardrail_plugin.core.refusal import is_refusal
from guardrail_plugin.training.rows import Example, read_jsonl

_NOT_WORD = re.compile(r"[\W_]+", re.UNICODE)
_HAN_AND_KANA = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_SOUTH_EAST = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
_SPACELESS = re.compile(f"([{_HAN_AND_KANA}{_SOUTH_EAST}])")
_LETTERS = re.compile(f"[{_SOUTH_EAST}]")
_IDEOGRAPHS_PER_WORD, _LETTERS_PER_WORD = 2, 4


@dataclass(frozen=True, slots=True)
class _Lengths:
    """From what length on a text is too close, by rule: ``equal``, ``contains``, ``words``."""

    equal_words: int
    contained_chars: int
    run_words: int


_QUERIES = _Lengths(equal_words=3, contained_chars=20, run_words=8)  # "thanks" is nobody's test item
# 40 words are about the 50 tokens that count as a copy in arXiv 2107.06499. Measured on the recipe "default": answers
# of GPTFuzz's two splits that do not refuse share runs of up to 29 words, all of them courtesies or role-play openings.
_ANSWERS = _Lengths(equal_words=8, contained_chars=100, run_words=40)


@dataclass(frozen=True, slots=True)
class Hit:
    """Where a training text is too close to an evaluation text. Holds places, not texts.

    Attributes:
        file: the evaluation file.
        rule: ``"equal"``, ``"contains"`` or ``"words"``.
    """

    file: str
    rule: str


class Evaluation:
    """The evaluation texts, indexed once."""

    def __init__(self, queries: Iterable[tuple[str, str]], answers: Iterable[tuple[str, str]] = ()) -> None:
        """Index (file, text) pairs."""
        self._queries = _Index(queries, _QUERIES)
        self._answers = _Index(((file, text) for file, text in answers if not is_refusal(text)), _ANSWERS)

    @classmethod
    def of_files(cls, files: Sequence[Path | tuple[Path, tuple[str, ...]]]) -> Evaluation:
        """Read the queries and the labelled responses of evaluation files, or of their rows of some categories.

        Raises:
            ConfigError: a file is missing or malformed.
        """
        parts = [(file, ()) if isinstance(file, Path) else file for file in files]
        rows = [
            (file.name, row)
            for file, categories in parts
            for row in read_jsonl(file)
            if not categories or str(row.get("category")).startswith(categories)
        ]
        labelled = [(name, row) for name, row in rows if "response_harmful" in row]
        return cls(_texts(rows, "text"), _texts(labelled, "response"))

    def find(self, example: Example) -> Hit | None:
        """Return the first evaluation text that some part of an example is too close to."""
        for query in compared(example):
            if (hit := self._queries.find(query)) is not None:
                return hit
        if example.rail == "output" and not is_refusal(example.text):
            return self._answers.find(example.text)
        return None

    def overlapping(self, examples: Sequence[Example]) -> dict[int, str]:
        """Return the examples of which some part breaks a rule, and the evaluation file: index → name."""
        return {i: hit.file for i, example in enumerate(examples) if (hit := self.find(example)) is not None}


def _texts(rows: Iterable[tuple[str, dict[str, Any]]], key: str) -> Iterator[tuple[str, str]]:
    return ((name, row[key]) for name, row in rows if isinstance(row.get(key), str))


class _Index:
    """Texts to look for, by what each rule compares."""

    def __init__(self, texts: Iterable[tuple[str, str]], lengths: _Lengths) -> None:
        self._lengths = lengths
        self._equal: dict[str, str] = {}
        self._runs: dict[int, str] = {}  # by hash: the words themselves would take 100 MB more
        # A contained text that is shorter than a run leaves none, so it is looked for as a run of its own length.
        self._short: dict[int, dict[tuple[str, ...], str]] = {}
        for file, text in texts:
            words = normalised(text)
            joined, size = " ".join(words), _size(words)
            if size < lengths.equal_words:
                continue
            self._equal.setdefault(joined, file)
            for run in _runs(words, lengths.run_words):
                self._runs.setdefault(hash(run), file)
            if len(joined) >= lengths.contained_chars and size < lengths.run_words:
                self._short.setdefault(len(words), {}).setdefault(tuple(words), file)

    def find(self, text: str) -> Hit | None:
        """Return the first evaluation text that this one breaks a rule with."""
        words = normalised(text)
        if (file := self._equal.get(" ".join(words))) is not None:
            return Hit(file, "equal")
        for run in _runs(words, self._lengths.run_words):
            if (file := self._runs.get(hash(run))) is not None:
                return Hit(file, "words")
        for length, known in self._short.items():
            for start in range(len(words) - length + 1):
                if (file := known.get(tuple(words[start : start + length]))) is not None:
                    return Hit(file, "contains")
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
    """Return what is compared with queries: what a response answers, else the text itself; and the longer turns before.

    A short turn ("How do I make meth?") stands in many a conversation and is not what is judged there.
    """
    query = example.query if example.rail == "output" and example.query is not None else example.text
    return [query, *(turn.text for turn in example.context if _size(normalised(turn.text)) >= _QUERIES.run_words)]


def _size(words: Sequence[str]) -> float:
    """Return how many words these are, characters of scripts without spaces counted as parts of one."""
    return sum(map(_weight, words))


def _weight(word: str) -> float:
    if len(word) > 1 or word.isascii() or not _SPACELESS.match(word):
        return 1.0
    return 1 / (_LETTERS_PER_WORD if _LETTERS.match(word) else _IDEOGRAPHS_PER_WORD)


def _runs(words: Sequence[str], least: int) -> Iterator[tuple[str, ...]]:
    """Yield every shortest run of at least so many words."""
    weights = [_weight(word) for word in words]
    end, size = 0, 0.0
    for start, weight in enumerate(weights):
        while size < least and end < len(words):
            size += weights[end]
            end += 1
        if size < least:
            return
        yield tuple(words[start:end])
        size -= weight
