"""``guardrail check``: judge texts from the command line, a JSONL file or stdin."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from guardrail_plugin.cli.checking import Answer, answers
from guardrail_plugin.cli.options import DeviceOption, DtypeOption, GuardianOption, PolicyOption, rail_named
from guardrail_plugin.cli.printing import JsonPrinter, TablePrinter
from guardrail_plugin.cli.reporting import EXIT_ERROR, EXIT_HARMFUL, reports_errors
from guardrail_plugin.cli.rows import Row, rows_of_lines, rows_of_texts
from guardrail_plugin.cli.session import open_session
from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.verdict import Rail

STDIN = Path("-")


@reports_errors
def check(
    *,
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT...", help="- reads one text from stdin.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help='JSONL: "text", maybe "id"; - is stdin.')
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per text.")] = False,
    no_response: Annotated[bool, typer.Option("--no-response", help="Verdicts only: much faster.")] = False,
    rail: Annotated[
        str, typer.Option("--rail", metavar="RAIL", help="input, output, tool_call, tool_output or document.")
    ] = "input",
    policy: PolicyOption = None,
    guardian: GuardianOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, metavar="N", help="Texts judged at once.")] = 256,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write there, not to stdout.")
    ] = None,
) -> None:
    """Judge texts: verdict, risk, hazard and safeguard response.

    --json prints per text {"id", "harmful", "risk", "hazards": {code: probability}, "response", "truncated"}; a text
    that cannot be checked has "harmful": null and an "error". Of a policy only thresholds and actions count here, and
    with one, "harmful" means that it acts. With --rail output a row may have the "query" that its text answers.

    Exit code: 0 all harmless, 1 some harmful, 2 some could not be checked, or an error. With --file harmful rows leave
    it at 0.
    """
    if (file is None) == (not texts):
        raise typer.BadParameter("give texts, or --file FILE, and not both")
    source = Source(rail=rail_named(rail), texts=tuple(texts or ()), file=file)
    tally = Tally()
    with ExitStack() as stack:
        rows = source.open(stack)
        session = stack.enter_context(open_session(guardian, policy=policy, device=device, dtype=dtype))
        stream = sys.stdout if output is None else _open_output(output, source, stack)
        printer = JsonPrinter(stream) if as_json else TablePrinter(stream, session)
        found = answers(rows, session=session, respond=not no_response, chunk_rows=batch_size)
        done = stack.enter_context(_progress(source, shown=output is not None or not sys.stdout.isatty()))
        for answer in stack.enter_context(closing(found)):
            printer.write(answer)
            tally.count(answer)
            done()
    if file is not None:
        typer.echo(str(tally), err=True)
    if tally.unchecked or (tally.harmful and file is None):
        raise typer.Exit(EXIT_ERROR if tally.unchecked else EXIT_HARMFUL)


@dataclass
class Tally:
    """How many answers of each kind there were."""

    harmful: int = 0
    harmless: int = 0
    unchecked: int = 0

    def count(self, answer: Answer) -> None:
        """Count one answer."""
        self.harmful += answer.harmful is True
        self.harmless += answer.harmful is False
        self.unchecked += answer.harmful is None

    def __str__(self) -> str:
        texts = self.harmful + self.harmless + self.unchecked
        return f"{texts} texts: {self.harmful} harmful, {self.harmless} harmless, {self.unchecked} not checked"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the texts come from: the command line, or a JSONL file."""

    rail: Rail
    texts: tuple[str, ...]
    file: Path | None

    def open(self, stack: ExitStack) -> Iterator[Row]:
        """Return the rows. What has to be open for that is closed with the stack.

        Raises:
            ConfigError: the file cannot be read.
        """
        if self.file is None:
            return rows_of_texts([_stdin_text() if text == "-" else text for text in self.texts], rail=self.rail)
        lines: BinaryIO = sys.stdin.buffer
        if self.file != STDIN:
            try:
                lines = stack.enter_context(self.file.open("rb"))
            except OSError as error:
                raise ConfigError(f"cannot read {self.file}: {error.strerror}") from None
        return rows_of_lines(lines, rail=self.rail)

    def count(self) -> int | None:
        """Return the number of rows, where it can be known before they are read."""
        if self.file is None or not self.file.is_file():
            return None
        with self.file.open("rb") as lines:
            return sum(1 for line in lines if line.strip())


def _stdin_text() -> str:
    return sys.stdin.buffer.read().decode("utf-8", errors="replace").removesuffix("\n")


def _open_output(path: Path, source: Source, stack: ExitStack) -> TextIO:
    try:
        if source.file is not None and path.exists() and source.file.exists() and path.samefile(source.file):
            raise ConfigError(f"--output {path} is the file that is read")
        return stack.enter_context(path.open("w", encoding="utf-8", errors="replace"))
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


@contextmanager
def _progress(source: Source, *, shown: bool) -> Iterator[Callable[[], None]]:
    """Yield what to call after each row: it moves a bar on stderr where that is a terminal and a file is read."""
    console = Console(stderr=True)
    if source.file is None or not shown or not console.is_terminal:
        yield lambda: None
        return
    columns = (TextColumn("Checking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Redirection would send the results, which belong to stdout, to the bar's stderr.
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task("Checking", total=source.count())
        yield lambda: bar.advance(task)
