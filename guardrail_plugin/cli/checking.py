"""Rows → answers, chunk by chunk and in order. A row that cannot be checked is answered with the reason."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from guardrail_plugin.core.errors import (
    ConfigError,
    GuardrailError,
    MissingDependencyError,
    ModelNotFoundError,
    PoolClosed,
    ReplicaDead,
)
from guardrail_plugin.core.verdict import Verdict

if TYPE_CHECKING:
    from guardrail_plugin.cli.rows import Row
    from guardrail_plugin.cli.session import Session
    from guardrail_plugin.guardian.protocol import CheckOutcome

_RESPONSES_AT_ONCE = 32  # threads that wait; the pool decodes what they ask for in shared batches

# About the engine, not about a row. One request can kill a replica, a whole chunk cannot be that unlucky.
_ENGINE_FAILURES = (ReplicaDead, PoolClosed, MissingDependencyError, ModelNotFoundError, ConfigError)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is printed for one row.

    Attributes:
        harmful: as the policy has it, else as the guardian has it; ``None``: not checked, ``problem`` says why.
        response: the safeguard response; ``None`` for harmless rows and where none was asked for.
    """

    row: Row
    verdict: Verdict | None = None
    harmful: bool | None = None
    response: str | None = field(default=None, repr=False)
    problem: str = ""


def answers(rows: Iterable[Row], *, session: Session, respond: bool, chunk_rows: int) -> Generator[Answer, None, None]:
    """Yield an answer per row, in order: verdicts as their chunk is done, responses as each is written.

    Raises:
        GuardrailError: the guardian cannot run at all.
    """
    waiting = iter(rows)
    writers = ThreadPoolExecutor(_RESPONSES_AT_ONCE, thread_name_prefix="guardrail-response")
    try:
        while chunk := list(islice(waiting, chunk_rows)):
            yield from _answer_chunk(chunk, session, writers if respond else None)
    finally:
        # Do not wait: on an interrupt the pool, which is closed next, is what ends the threads that still decode.
        writers.shutdown(wait=False, cancel_futures=True)


def _answer_chunk(chunk: Sequence[Row], session: Session, writers: ThreadPoolExecutor | None) -> Iterator[Answer]:
    checks = [row.check for row in chunk if row.check is not None]
    outcomes = session.guardian.check_many(checks) if checks else []
    if outcomes and all(isinstance(outcome, _ENGINE_FAILURES) for outcome in outcomes):
        raise _first_error(outcomes)
    left = iter(outcomes)
    judged = [_judged(row, next(left), session) if row.check is not None else _unchecked(row) for row in chunk]
    responses: dict[int, Future[str]] = {}
    if writers is not None:
        for index, answer in enumerate(judged):
            if answer.harmful and answer.row.check is not None:
                responses[index] = writers.submit(session.guardian.respond, answer.row.check, answer.verdict)
    for index, answer in enumerate(judged):
        if index not in responses:
            yield answer
        else:
            yield Answer(answer.row, answer.verdict, answer.harmful, responses[index].result())


def _judged(row: Row, outcome: CheckOutcome, session: Session) -> Answer:
    if not isinstance(outcome, Verdict):
        return Answer(row, problem=str(outcome))
    if session.policy is None:
        return Answer(row, outcome, outcome.harmful)
    return Answer(row, session.policy.deciding(outcome), session.policy.action(outcome) != "allow")


def _unchecked(row: Row) -> Answer:
    return Answer(row, problem=row.problem)


def _first_error(outcomes: Sequence[CheckOutcome]) -> GuardrailError:
    return next(outcome for outcome in outcomes if isinstance(outcome, GuardrailError))
