"""Label probabilities from next-token probabilities: labels of one token, of several, and in several spellings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from guardrail_plugin.core.errors import ConfigError

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Branch:
    """A point where labels part: after ``suffix``, the next token is one of ``next_ids``."""

    suffix: Ids
    next_ids: Ids


class LabelSet:
    """A few answers of which the model gives one.

    One forward pass decides labels that differ in their first token. Labels that share their first tokens are
    scored as sequences: one pass per branching, probabilities multiplied along the way, nothing generated. Spellings
    of one label are summed.

    Args:
        spellings: label → its token sequences.
        ends: tokens of which one follows a label that is the beginning of another (``S1`` and ``S10``).

    Raises:
        ConfigError: fewer than two labels, an empty or shared sequence, or a label that begins another without
            ``ends``.
    """

    def __init__(self, spellings: Mapping[str, Iterable[Ids]], *, ends: Iterable[int] = ()) -> None:
        self.names = tuple(spellings)
        self._ends = tuple(dict.fromkeys(ends))
        rows = {name: tuple(dict.fromkeys(map(tuple, ways))) for name, ways in spellings.items()}
        every = [ids for ways in rows.values() for ids in ways]
        if len(rows) < 2 or not all(rows.values()) or not all(every):
            raise ConfigError(f"labels need two answers of at least one token each, got {list(rows)}")
        if len(set(every)) < len(every):
            raise ConfigError(f"two of the labels {list(rows)} are the same tokens in this tokenizer")
        self.branches = tuple(self._branches(every))
        at = {branch.suffix: i for i, branch in enumerate(self.branches)}
        self._ways = [[self._steps(ids, at) for ids in ways] for ways in rows.values()]

    @property
    def single(self) -> bool:
        """Whether one forward pass decides."""
        return len(self.branches) == 1 and not self.branches[0].suffix

    def read(self, results: Sequence[Sequence[float]]) -> tuple[float, ...]:
        """Return log-probabilities (K,) of the labels from those of each branch's next tokens."""
        return tuple(_sum(sum(self._step(step, results) for step in way) for way in ways) for ways in self._ways)

    def _step(self, step: tuple[int, tuple[int, ...]], results: Sequence[Sequence[float]]) -> float:
        branch, columns = step
        return _sum(results[branch][column] for column in columns)

    def _branches(self, every: Sequence[Ids]) -> Iterable[Branch]:
        whole = set(every)
        for prefix in dict.fromkeys(ids[:n] for ids in every for n in range(len(ids) + 1)):
            following = dict.fromkeys(
                ids[len(prefix)] for ids in every if len(ids) > len(prefix) and ids[: len(prefix)] == prefix
            )
            if not following:
                continue
            if prefix in whole:
                if not self._ends or not self._ends_apart(following):
                    raise ConfigError(f"one of the labels {list(self.names)} is the beginning of another")
                yield Branch(prefix, (*following, *self._ends))
            elif len(following) > 1:
                yield Branch(prefix, tuple(following))

    def _ends_apart(self, following: Iterable[int]) -> bool:
        return set(following).isdisjoint(self._ends)

    def _steps(self, ids: Ids, at: Mapping[Ids, int]) -> list[tuple[int, tuple[int, ...]]]:
        steps = []
        for n in range(len(ids) + 1):
            number = at.get(ids[:n])
            if number is None:
                continue
            wanted = ids[n : n + 1] or self._ends
            steps.append((number, tuple(self.branches[number].next_ids.index(i) for i in wanted)))
        return steps


def singles(names: Sequence[str], ids: Sequence[int]) -> LabelSet:
    """Return labels of one token each."""
    return LabelSet({name: [(token,)] for name, token in zip(names, ids, strict=True)})


def _sum(logs: Iterable[float]) -> float:
    """Return log(sum(exp(logs))); NaN stays NaN."""
    values = list(logs)
    top = max(values)
    if not math.isfinite(top):
        return math.nan if any(map(math.isnan, values)) else top
    return top + math.log(math.fsum(math.exp(value - top) for value in values))
