"""Answers on stdout: one JSON object per line, or a small table per text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from guardrail_plugin.cli.checking import Answer
    from guardrail_plugin.cli.session import Session
    from guardrail_plugin.core.verdict import Verdict

_EXCERPT_CHARACTERS = 200


class Printer(Protocol):
    """Writes answers."""

    def write(self, answer: Answer) -> None:
        """Write one answer and hand it on at once."""


class JsonPrinter:
    """One JSON object per line. ASCII only, so that no encoding and no terminal can break it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, answer: Answer) -> None:
        """Write one line."""
        self._stream.write(json.dumps(as_record(answer)) + "\n")
        self._stream.flush()


class TablePrinter:
    """A table per text, for people."""

    def __init__(self, stream: TextIO, session: Session) -> None:
        # No colour and no cursor codes where the output is no terminal: rich looks at the stream.
        self._console = Console(file=stream, highlight=False)
        self._session = session

    def write(self, answer: Answer) -> None:
        """Write one table."""
        table = Table(show_header=False, box=None, pad_edge=False)
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        if answer.row.check is not None:
            table.add_row("text", Text(excerpt(answer.row.check.text)))
        if answer.verdict is None:
            table.add_row("problem", Text(answer.problem, style="yellow"))
        else:
            self._add_verdict(table, answer.verdict, harmful=bool(answer.harmful))
        if answer.response is not None:
            table.add_row("response", Text(printable(answer.response)))
        self._console.print(_headline(answer))
        self._console.print(table)
        self._console.print()

    def _add_verdict(self, table: Table, verdict: Verdict, *, harmful: bool) -> None:
        policy = self._session.policy
        threshold = verdict.threshold if policy is None else policy.threshold_for(verdict)
        table.add_row("risk", f"{verdict.risk:.3f}  (acts at {threshold:.2f})")
        if harmful and verdict.hazard is not None:
            share = verdict.hazards.get(verdict.hazard, verdict.risk)
            table.add_row("hazard", Text(f"{self._session.hazard(verdict.hazard)}  {share:.3f}"))
        if verdict.truncated:
            table.add_row("note", "the text is so long that only part of it was judged")


def as_record(answer: Answer) -> dict[str, object]:
    """Return what ``--json`` prints: always the same six keys, and ``error`` where there is no verdict."""
    verdict = answer.verdict
    if verdict is None:
        nothing: dict[str, object] = {"harmful": None, "risk": None, "hazards": {}, "response": None}
        return {"id": answer.row.id, **nothing, "truncated": False, "error": answer.problem}
    return {
        "id": answer.row.id,
        "harmful": answer.harmful,
        "risk": round(verdict.risk, 6),
        "hazards": {code: round(p, 6) for code, p in verdict.hazards.items()},
        "response": answer.response,
        "truncated": verdict.truncated,
    }


def excerpt(text: str) -> str:
    """Return the beginning of a text on one line."""
    line = printable(" ".join(text[: 4 * _EXCERPT_CHARACTERS].split()))
    return line if len(line) <= _EXCERPT_CHARACTERS else line[: _EXCERPT_CHARACTERS - 1] + "…"


def printable(text: str) -> str:
    """Return a text without anything that a terminal would obey: escape sequences, bidirectional marks, surrogates."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def _headline(answer: Answer) -> Text:
    words = {True: ("HARMFUL", "bold red"), False: ("harmless", "green"), None: ("NOT CHECKED", "bold yellow")}
    word, style = words[answer.harmful]
    return Text.assemble((word, style), (f"  #{printable(str(answer.row.id))}", "dim"))
