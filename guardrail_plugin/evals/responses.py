"""Safeguard responses: have the guardian write them as in production, and note what there is to say about each.

Every harmful query of the input rail is answered, also one that the rail would have let pass: a policy may block it.
No response is written to disk. What a cut run has measured is not asked again.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from pydantic import TypeAdapter, ValidationError
from tqdm import tqdm

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import GuardianError
from guardrail_plugin.core.refusal import is_refusal
from guardrail_plugin.core.verdict import Verdict
from guardrail_plugin.evals.dataset import EvalRow
from guardrail_plugin.evals.fit import hazard_words
from guardrail_plugin.evals.results import Scored
from guardrail_plugin.evals.score import Score, as_verdict
from guardrail_plugin.evals.settings import judging_settings, responding_settings
from guardrail_plugin.evals.store import ScoreStore
from guardrail_plugin.guardian.fallbacks import languages
from guardrail_plugin.guardian.language import detect
from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.guardian.responding import is_written

RESPONSES_FOLDER = "responses"
_CHUNK = 64  # asked at once, so that decodes share batches
_ENGLISH = "en"

Wanted: TypeAlias = int | Literal["all"]
"""How many harmful queries of each file are answered."""

T = TypeVar("T")


@runtime_checkable
class CountsTokens(Protocol):
    """A guardian that can say how long a text is in its own tokens. Without it there are no token figures."""

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What there is to say about one safeguard response. Holds no text.

    Attributes:
        digest: of the response: equal responses have equal ones.
        refuses: it is a refusal by ``is_refusal``; ``None`` where it is not English, which those rules do not read.
        flagged: the guardian's own output rail finds it harmful; ``None``: no verdict could be had.
        by_model: the model wrote it; else it is one of the texts written beforehand.
        in_language: it is in the query's language; ``None`` where that language has no written responses.
        fits_named, fits_stated: it is about the hazard that the guardian named, that the source states; ``None`` where
            there is none, or the response is not English.
        seconds: wall time of its chunk divided by the chunk's rows.
    """

    id: str
    digest: str
    refuses: bool | None
    flagged: bool | None
    by_model: bool
    in_language: bool | None
    fits_named: bool | None
    fits_stated: bool | None
    tokens: int | None = None
    seconds: float = 0.0


_ANSWER = TypeAdapter(Answer)


@dataclass(frozen=True, slots=True)
class Answered:
    """One file's answers, and the texts of this run's responses by row id (never written to disk)."""

    name: str
    rows: tuple[EvalRow, ...]
    answers: tuple[Answer, ...]
    texts: dict[str, str]


def harmful_rows(scored: Scored, *, wanted: Wanted, seed: int) -> list[tuple[EvalRow, Score]]:
    """Return the rows to answer, in file order: a draw by hash of the id, so that a larger one holds the smaller."""
    pairs = [pair for pair in zip(scored.dataset.rows, scored.scores, strict=True) if pair[0].harmful]
    if wanted == "all" or wanted >= len(pairs):
        return pairs
    drawn = {row.id for row, _ in sorted(pairs, key=lambda pair: _rank(pair[0].id, seed))[:wanted]}
    return [pair for pair in pairs if pair[0].id in drawn]


def answer(
    scored: Scored,
    guardian: GuardianProtocol,
    *,
    wanted: Wanted = "all",
    folder: Path | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> Answered:
    """Have the harmful queries of a file answered; measure each response.

    Raises:
        ConfigError: the folder cannot be written.
        MissingDependencyError: scikit-learn is not installed.
    """
    data = scored.dataset
    pairs = harmful_rows(scored, wanted=wanted, seed=seed)
    store = ScoreStore(
        folder,
        name=data.name,
        guardian=guardian.id,
        fingerprint=data.fingerprint,
        settings=judging_settings(guardian) | responding_settings(guardian),
    )
    kept = (one for one in map(_from_json, store.read()) if one is not None)
    known = {one.id: one for one in kept if one.flagged is not None}  # without a verdict it is asked again
    store.rewrite([asdict(one) for one in known.values()])
    missing = sorted((pair for pair in pairs if pair[0].id not in known), key=lambda pair: len(pair[0].check.text))
    texts: dict[str, str] = {}
    writer = _Writer(guardian)
    with tqdm(
        total=len(pairs), initial=len(pairs) - len(missing), desc=f"{data.name}, responses", disable=quiet or None
    ) as bar:
        for chunk in _chunks(missing):
            found = writer.measured(chunk, texts)
            store.append([asdict(one) for one in found])
            known.update((one.id, one) for one in found)
            bar.update(len(chunk))
    return Answered(data.name, tuple(row for row, _ in pairs), tuple(known[row.id] for row, _ in pairs), texts)


def texts_of(
    pairs: Sequence[tuple[EvalRow, Score]], guardian: GuardianProtocol, *, known: dict[str, str]
) -> dict[str, str]:
    """Return the responses to these rows, those that this run has not heard asked for again."""
    missing = [pair for pair in pairs if pair[0].id not in known]
    return known | dict(zip((row.id for row, _ in missing), _Writer(guardian).responses(missing), strict=True))


class _Writer:
    """Asks a guardian for safeguard responses and measures them."""

    def __init__(self, guardian: GuardianProtocol) -> None:
        self._guardian = guardian
        self._count: Callable[[str], int] | None = guardian.count_tokens if isinstance(guardian, CountsTokens) else None

    def responses(self, chunk: Sequence[tuple[EvalRow, Score]]) -> list[str]:
        guardian = self._guardian
        asked = [
            (row.check, None if score.error else as_verdict(score, row.check.rail, guardian.id)) for row, score in chunk
        ]

        async def all_at_once() -> list[str]:
            return await asyncio.gather(*(guardian.arespond(check, verdict) for check, verdict in asked))

        return _run(all_at_once) if asked else []

    def measured(self, chunk: Sequence[tuple[EvalRow, Score]], texts: dict[str, str]) -> list[Answer]:
        started = time.perf_counter()
        written = self.responses(chunk)
        seconds = round((time.perf_counter() - started) / len(chunk), 6)
        checks = [
            Check(text, rail="output", query=row.check.text) for (row, _), text in zip(chunk, written, strict=True)
        ]
        judged = self._guardian.check_many(checks)
        if len(judged) != len(chunk):
            raise GuardianError(f"the guardian gave {len(judged)} answers to {len(chunk)} checks")
        about = hazard_words().hazards(written)
        found = []
        for (row, score), text, verdict, hazards in zip(chunk, written, judged, about, strict=True):
            texts[row.id] = text
            measured = self._measured(row, score, text=text, hazards=hazards)
            flagged = verdict.harmful if isinstance(verdict, Verdict) else None
            found.append(replace(measured, flagged=flagged, seconds=seconds))
        return found

    def _measured(self, row: EvalRow, score: Score, *, text: str, hazards: Sequence[str]) -> Answer:
        """Return what the response itself tells; ``hazards`` are those that it may be about."""
        spoken = (row.lang or detect(row.check.text)).replace("_", "-").partition("-")[0].lower()
        language = detect(text)
        english = language == _ENGLISH

        def fits(hazard: str | None) -> bool | None:
            return hazard in hazards if english and hazard_words().knows(hazard) else None

        return Answer(
            id=row.id,
            digest=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16],
            refuses=is_refusal(text) if english else None,
            flagged=None,
            by_model=not is_written(text),
            in_language=language == spoken if spoken in languages() else None,
            fits_named=fits(score.hazard),
            fits_stated=fits(score.expected),
            tokens=None if self._count is None else self._count(text),
        )


def _run(work: Callable[[], Coroutine[object, object, T]]) -> T:
    """Run a coroutine to its end; in a thread of its own where a loop runs already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(work())).result()


def _rank(key: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}\0{key}".encode("utf-8", "surrogatepass")).hexdigest()


def _chunks(pairs: Sequence[tuple[EvalRow, Score]]) -> Iterator[Sequence[tuple[EvalRow, Score]]]:
    for start in range(0, len(pairs), _CHUNK):
        yield pairs[start : start + _CHUNK]


def _from_json(line: dict[str, object]) -> Answer | None:
    """Return the answer of a line; ``None`` where the line is not one of ours."""
    try:
        return _ANSWER.validate_python(line)
    except ValidationError:
        return None
