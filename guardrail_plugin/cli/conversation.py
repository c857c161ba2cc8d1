"""One guarded conversation on a console: history, streaming, the rail's verdict in a dim line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from rich.console import Console
from rich.text import Text

from guardrail_plugin.cli.printing import printable
from guardrail_plugin.cli.reporting import show_error
from guardrail_plugin.core.errors import GuardianError, InferenceError, InputError, PoolOverloaded
from guardrail_plugin.runnables import guard

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from guardrail_plugin.cli.session import Session

_KEPT_TURNS = 12  # a small model's context is short, and old turns help it little

# What concerns one message. The next one may go well; with anything else no message would.
_PASSING = (GuardianError, InputError, InferenceError, PoolOverloaded)


class Conversation:
    """A conversation with a guarded chat model."""

    def __init__(self, *, model: BaseChatModel, session: Session, console: Console, system: str | None = None) -> None:
        self._console = console
        self._session = session
        self._safe = guard(
            model, guardian=session.guardian, policy=session.policy, output_type=AIMessage, on_block="respond"
        )
        self._system: list[BaseMessage] = [SystemMessage(system)] if system else []
        self._turns: list[BaseMessage] = []

    def run(self, lines: Iterable[str]) -> None:
        """Answer line by line until they end or one says ``/quit``.

        Raises:
            GuardrailError: the guardian or the model cannot run at all.
        """
        for line in lines:
            said = line.strip()
            if said == "/quit":
                return
            if said == "/reset":
                self._turns.clear()
                self._console.print("(new conversation)", style="dim")
            elif said:
                self._answer(said)

    def _answer(self, said: str) -> None:
        rail = RailListener()
        question = HumanMessage(said)
        parts: list[str] = []
        try:
            for chunk in self._safe.stream([*self._system, *self._turns, question], {"callbacks": [rail]}):
                if not parts:
                    self._print_verdict(rail.outcome)
                parts.append(chunk.text)
                self._console.out(printable(chunk.text), end="", highlight=False)
                self._console.file.flush()
        except KeyboardInterrupt:
            self._console.print("\n(cut off)", style="dim")
        except _PASSING as error:
            show_error(error)
        else:
            self._console.print()
        # A blocked turn is forgotten: the model must not meet it as history either.
        if rail.outcome.get("action") == "allow" and any(parts):
            self._turns += [question, AIMessage("".join(parts))]
            del self._turns[: -2 * _KEPT_TURNS]

    def _print_verdict(self, outcome: dict[str, Any]) -> None:
        acts = outcome.get("action") != "allow"
        if outcome.get("risk") is None:
            line = f"not judged ({outcome.get('error')})"
        else:
            # As in `guardrail check`: with a policy, harmful is what the policy acts on.
            line = f"{'HARMFUL' if acts else 'harmless'}  risk {outcome['risk']:.3f}"
            line += f"  {self._session.hazard(outcome['hazard'])}" if acts else ""
        line += "  blocked: the guardian answers" if acts else ""
        self._console.print(Text(f"[{line}]", style="dim"), soft_wrap=True)


class RailListener(BaseCallbackHandler):
    """Keeps the outcome of the input rail, which its run reports before the first token.

    Attributes:
        outcome: the fields of ``guardrail_plugin.flow.describe``; empty as long as there is none.
    """

    def __init__(self) -> None:
        self.outcome: dict[str, Any] = {}
        self._run: UUID | None = None

    def on_chain_start(self, serialized: Any, inputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Note which run is the rail's."""
        if kwargs.get("name") == "guardrail.input":
            self._run = run_id

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Keep the rail's outcome."""
        if run_id == self._run:
            self.outcome = outputs
