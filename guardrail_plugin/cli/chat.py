"""``guardrail chat``: talk to a guarded chat model in the terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from guardrail_plugin.cli.options import DeviceOption, DtypeOption, GuardianOption, PolicyOption
from guardrail_plugin.cli.reporting import reports_errors
from guardrail_plugin.cli.session import Session, open_session
from guardrail_plugin.core.dtype import dtype_named

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel


@reports_errors
def chat(
    *,
    model: Annotated[
        str | None, typer.Option("--model", metavar="PATH|HUB", help="Chat model. Default: the embedded SmolLM2.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System prompt.")] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, metavar="N", help="Longest answer, in tokens.")
    ] = 256,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, metavar="T", help="0 is greedy.")] = 0.0,
    policy: PolicyOption = None,
    guardian: GuardianOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
) -> None:
    """Chat with a guarded model. Type /reset for a new conversation, /quit or Ctrl-D to leave, Ctrl-C to cut an answer.

    What the guardian blocks never reaches the model, in later turns neither. Without a terminal, each line of stdin is
    a message.
    """
    from guardrail_plugin.cli.conversation import Conversation

    console = Console(highlight=False)
    with open_session(guardian, policy=policy, device=device, dtype=dtype) as session:
        chat_model = make_model(session, model=model, max_tokens=max_tokens, temperature=temperature, dtype=dtype)
        conversation = Conversation(model=chat_model, session=session, console=console, system=system)
        conversation.run(_typed() if sys.stdin.isatty() else _piped())


def make_model(
    session: Session, *, model: str | None, max_tokens: int, temperature: float, dtype: str = "auto"
) -> BaseChatModel:
    """Return the chat model behind the guardian, on the guardian's pool."""
    from guardrail_plugin.runnables.chat_model import PoolChatModel

    return PoolChatModel(
        model=model, pool=session.pool, max_tokens=max_tokens, temperature=temperature, dtype=dtype_named(dtype)
    )


def _typed() -> Iterator[str]:
    """Yield what is typed, until Ctrl-D or Ctrl-C at the prompt."""
    with suppress(ImportError):
        import readline  # noqa: F401 - gives input() its line editing and history
    while True:
        try:
            line = input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return
        yield line


def _piped() -> Iterator[str]:
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    for line in sys.stdin:
        yield line.rstrip("\n")
