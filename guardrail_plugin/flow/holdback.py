"""Hold an answer back while it grows: a state machine that tells which chunks may leave. No I/O, no clock.

Its driver tells it what happened (``add``, ``end``, ``judged``, ``settled``) and asks what to do (``wanted``,
``take``, ``stopped``, ``ending``). Sync streams, async streams and a chat-model proxy run this one machine, so that
they cannot disagree about what has been checked.

Verdicts are cumulative: each window is judged with what stands before it, back to the answer's beginning, or to a
fixed reach in long answers; those are judged once more as a whole before their last window leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeAlias, TypeVar

from guardrail_plugin.core.conversation import Check, Message
from guardrail_plugin.core.errors import GuardrailError
from guardrail_plugin.core.verdict import Verdict
from guardrail_plugin.flow.effects import Steps
from guardrail_plugin.flow.outcomes import Allowed, Outcome
from guardrail_plugin.flow.rails import Rules, Uncheckable, output_rail, settle, unjudged, with_beside
from guardrail_plugin.flow.windows import Window, reach
from guardrail_plugin.guardian.protocol import CheckOutcome

C = TypeVar("C")

Release: TypeAlias = Literal["checked", "optimistic"]
"""``"checked"``: nothing leaves unjudged. ``"optimistic"``: text leaves at once, and is taken back when blocked."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one chunk adds to an answer. ``repr`` hides it.

    Attributes:
        answer: what the reader sees as the answer.
        reasoning: what a model shows of its thinking; judged on its own, beside the answer.
        acts: it belongs to a tool call. What acts leaves only when all has been judged, in every release mode.
        unread: it holds what no rail can read, such as an image: it leaves like what acts, or like text if it may pass.
    """

    answer: str = field(default="", repr=False)
    reasoning: str = field(default="", repr=False)
    acts: bool = False
    unread: bool = False


@dataclass(slots=True, eq=False)
class _Channel:
    text: str = ""
    judged: int = 0
    whole: int = 0


@dataclass(frozen=True, slots=True)
class _InFlight:
    # Chunks are counted from the answer's beginning: those that are free may be taken before or after the next check.
    checks: tuple[Check, ...]
    chunks: int
    covered: tuple[tuple[_Channel, int, bool], ...]
    last: bool


class HoldBack(Generic[C]):
    """The output rail of one stream. Used by one driver, for one answer.

    Attributes:
        stopped: nothing more is wanted of the source; close it.
        windows: checks that were asked for.
        released_characters: how much of the answer has left.
    """

    def __init__(
        self,
        *,
        window: Window,
        rules: Rules,
        query: str | None = None,
        context: tuple[Message, ...] = (),
        release: Release = "checked",
    ) -> None:
        self.stopped = False
        self.windows = 0
        self.released_characters = 0
        self._window = window
        self._rules = rules
        self._query = query
        self._context = context
        self._optimistic = release == "optimistic"
        self._answer = _Channel()
        self._reasoning = _Channel()
        self._held: list[tuple[C, Part]] = []
        self._taken = 0
        self._free = 0
        self._acts = False
        self._in_flight: _InFlight | None = None
        self._ended = False
        self._last: tuple[Check, ...] = ()
        self._nothing: Uncheckable | None = None
        self._asked_last = False
        self._missing: GuardrailError | None = None
        self._best: Verdict | None = None
        self._escalated: dict[_Channel | Check, Verdict] = {}
        self._against: tuple[tuple[Check, ...], tuple[CheckOutcome, ...]] | None = None

    @property
    def waiting(self) -> bool:
        """Whether a check is out: the source may run ahead, and what it brings is held."""
        return self._in_flight is not None

    @property
    def finished(self) -> bool:
        """Whether ``ending`` can be run: the answer is complete and judged, or was stopped."""
        return self.stopped or (self._ended and self._asked_last and self._in_flight is None)

    def add(self, chunk: C, part: Part) -> None:
        """Take in the next chunk of the answer."""
        if self.stopped or self._ended:
            raise AssertionError("the answer has ended")
        self._held.append((chunk, part))
        self._answer.text += part.answer
        self._reasoning.text += part.reasoning
        self._acts = self._acts or part.acts or (part.unread and self._rules.on_uncheckable != "allow")
        if self._optimistic and not self._acts:
            self._free = self._taken + len(self._held)

    def end(self, last: Sequence[Check] = (), *, nothing: Uncheckable | None = None) -> None:
        """Note that the answer is complete.

        Args:
            last: what else must be judged before the rest leaves: the tool calls that the chunks add up to.
            nothing: the answer is of a kind in which no text can be read; ``nothing.beside``: some of it is.
        """
        self._ended, self._last, self._nothing = True, tuple(last), nothing

    def wanted(self) -> tuple[Check, ...]:
        """Return the checks to start now; their outcomes go to ``judged``. Empty: none, or others are out."""
        if self.stopped or self._in_flight is not None:
            return ()
        if self._ended:
            return self._last_checks()
        if not self._escalated and any(
            self._window.complete(channel.text[channel.judged :]) for channel in (self._answer, self._reasoning)
        ):
            return self._ask([c for c in (self._answer, self._reasoning) if c.text[c.judged :].strip()])
        return ()

    def judged(self, outcomes: Sequence[CheckOutcome]) -> None:
        """Take in the outcomes of the checks that are out, in their order."""
        flight, self._in_flight = self._in_flight, None
        if flight is None:
            raise AssertionError("no checks are out")
        self._weigh(flight, tuple(outcomes))
        if self._against is not None:
            self.stopped = not flight.last
            return
        for channel, length, from_start in flight.covered:
            channel.judged = max(channel.judged, length)
            channel.whole = max(channel.whole, length if from_start else 0)
        if not self._escalated and not self._acts and not flight.last:
            self._free = max(self._free, flight.chunks)

    def take(self) -> list[C]:
        """Return the chunks that may leave now, in order, once."""
        count = max(self._free - self._taken, 0)
        out, self._held = self._held[:count], self._held[count:]
        self._taken += count
        self.released_characters += sum(len(part.answer) for _, part in out)
        return [chunk for chunk, _ in out]

    def ending(self) -> Steps[Outcome]:
        """Decide how the answer ends. Run it when ``finished``, then tell ``settled``."""
        beside = self._nothing if self._nothing is not None and self._nothing.beside else None
        return with_beside(self._decided, beside, rules=self._rules)

    def settled(self, outcome: Outcome) -> None:
        """Take in how it ended: an allowed answer's last chunks may leave, all others are dropped."""
        self.stopped = True
        if isinstance(outcome, Allowed):
            self._free = self._taken + len(self._held)
        else:
            self._held.clear()
            self._free = self._taken

    def _decided(self, rules: Rules) -> Steps[Outcome]:
        if self._against is not None:
            checks, outcomes = self._against
            return settle(checks, outcomes, asked=self._asked(), rules=rules)
        if self._escalated:
            checks = tuple(self._check(one.text) if isinstance(one, _Channel) else one for one in self._escalated)
            return settle(checks, tuple(self._escalated.values()), asked=self._asked(), rules=rules)
        if self._nothing is not None and self._best is None and not (self._nothing.beside and self._missing):
            return output_rail(self._nothing, asked=None, rules=rules)
        return self._well()

    def _well(self) -> Steps[Outcome]:
        yield from ()
        ruling = None if self._best is None else self._rules.policy.ruling(self._best)
        return Allowed("output", self._best, self._missing, ruling)

    def _last_checks(self) -> tuple[Check, ...]:
        if self._asked_last:
            return ()
        self._asked_last = True
        left = [c for c in (self._answer, self._reasoning) if c.text[c.whole :].strip()]
        return self._ask(left, last=True) if left or self._last else ()

    def _ask(self, channels: Sequence[_Channel], *, last: bool = False) -> tuple[Check, ...]:
        starts = [0 if last else reach(channel.text, channel.judged) for channel in channels]
        texts = [channel.text[start:] for channel, start in zip(channels, starts, strict=True)]
        checks = tuple(map(self._check, texts))
        covered = tuple((c, len(c.text), start == 0) for c, start in zip(channels, starts, strict=True))
        checks += self._last if last else ()
        self._in_flight = _InFlight(checks, self._taken + len(self._held), covered, last)
        self.windows += 1
        return checks

    def _weigh(self, flight: _InFlight, outcomes: tuple[CheckOutcome, ...]) -> None:
        channels = [channel for channel, _, _ in flight.covered]
        parts: tuple[_Channel | Check, ...] = (*channels, *flight.checks[len(channels) :])
        for part, check, outcome in zip(parts, flight.checks, outcomes, strict=True):
            if isinstance(outcome, GuardrailError):
                if isinstance(unjudged(outcome, rail=check.rail, rules=self._rules), Allowed):
                    self._missing = outcome
                else:
                    self._against = (flight.checks, outcomes)
                continue
            self._best = outcome if self._best is None or outcome.risk > self._best.risk else self._best
            action = self._rules.policy.action(outcome)
            if action == "block" or (action == "escalate" and self._rules.on_escalate is None):
                self._against = (flight.checks, outcomes)
            elif action == "escalate":
                # A person is asked once, about the whole: until then all is held and the model writes on.
                self._escalated[part] = outcome

    def _asked(self) -> Check:
        return self._check(self._answer.text or " ")

    def _check(self, text: str) -> Check:
        return Check(text, rail="output", query=self._query, context=self._context)
