"""Errors as a person reads them: one ``error:`` line and an exit code, no traceback unless asked for."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from guardrail_plugin.core.errors import GuardrailError, MissingDependencyError

EXIT_HARMFUL = 1
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE

debug: ContextVar[bool] = ContextVar("debug", default=False)

# Which extra brings a module that was imported by name somewhere below.
_EXTRA_OF = {
    **dict.fromkeys(("torch", "transformers", "tokenizers", "safetensors", "peft", "tqdm", "gguf"), "local"),
    "huggingface_hub": "local",
    **dict.fromkeys(("jinja2", "matplotlib", "numpy", "sklearn"), "evaluate"),
}

_P = ParamSpec("_P")
_R = TypeVar("_R")


def reports_errors(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Make a command end with one line and an exit code where this library, or the reader of its output, gives up."""

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            _silence_stdout()
            raise typer.Exit(EXIT_BROKEN_PIPE) from None
        except (GuardrailError, ModuleNotFoundError) as error:
            told = as_told(error)
            if told is None or debug.get():
                raise
            show_error(told)
            raise typer.Exit(EXIT_ERROR) from None

    return run


def as_told(error: BaseException) -> GuardrailError | None:
    """Return the error to print: a missing module of an extra names that extra. ``None``: this is a bug."""
    if isinstance(error, GuardrailError):
        return error
    module = error.name if isinstance(error, ModuleNotFoundError) else None
    extra = _EXTRA_OF.get(str(module).partition(".")[0])
    return MissingDependencyError(str(module), extra=extra) if extra else None


def show_error(error: GuardrailError) -> None:
    """Print an error and why it came about to stderr."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text(f"error: {error}", style="red"))
    for cause in _causes(error):
        # Errors of others may quote the text that was checked: their name is enough, --debug shows the rest.
        told = as_told(cause)
        console.print(Text(f"  because: {told or f'{type(cause).__name__} (--debug shows more)'}", style="red"))


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause = error.__cause__
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _silence_stdout() -> None:
    """Point stdout at nothing, else the interpreter's last flush complains about the pipe again."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # a test's stand-in has no descriptor
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, descriptor)
    os.close(nothing)
