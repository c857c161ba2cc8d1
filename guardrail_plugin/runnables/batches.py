"""A guarded batch under way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig

from guardrail_plugin.flow import Outcome
from guardrail_plugin.runnables.answers import Asked
from guardrail_plugin.runnables.output_stage import OutputStage
from guardrail_plugin.runnables.stage import InputStage, Reading

M = TypeVar("M")


class BatchWork:
    """A batch under way: which inputs go on, what came of them, in their order."""

    def __init__(
        self,
        rail: InputStage,
        values: Sequence[Any],
        turns: Sequence[Reading],
        outcomes: Sequence[Outcome],
        *,
        keep_errors: bool,
    ) -> None:
        self._rail = rail
        self._keep_errors = keep_errors
        self._results = rail.settled(outcomes, keep_errors=keep_errors)
        self._values: dict[int, Any] = {}
        self._turns = list(turns)
        self._count = len(values)
        for index, (value, turn, outcome) in enumerate(zip(values, turns, outcomes, strict=True)):
            if index not in self._results:
                try:
                    self._values[index], self._turns[index] = rail.accepted(value, turn, outcome)
                except Exception as error:
                    if not keep_errors:
                        raise
                    self._results[index] = error

    def pick(
        self, managers: Sequence[M], configs: Sequence[RunnableConfig]
    ) -> tuple[list[Any], list[M], list[RunnableConfig]]:
        """Return the inputs that go on, with their managers and configs."""
        return list(self._values.values()), [managers[i] for i in self._values], [configs[i] for i in self._values]

    def take(self, outputs: Sequence[object]) -> None:
        """Take in the chain's answers."""
        self._results.update(zip(self._values, outputs, strict=True))

    def _answered(self) -> list[int]:
        return [i for i in self._values if not isinstance(self._results[i], BaseException)]

    def answers(self) -> tuple[list[object], list[Asked]]:
        """Return the answers to judge, and what they answer. Errors are none."""
        answered = self._answered()
        return [self._results[i] for i in answered], [self._rail.asked(self._turns[i]) for i in answered]

    def of_answers(self, managers: Sequence[M]) -> list[M]:
        """Return the managers of the answers to judge."""
        return [managers[i] for i in self._answered()]

    def settle(self, rail: OutputStage, outcomes: Sequence[Outcome]) -> None:
        """Put in what callers get of the judged answers."""
        for index, outcome in zip(self._answered(), outcomes, strict=True):
            self._keep(index, rail.passed, self._results[index], outcome)

    def _keep(self, index: int, make: Callable[[object, Outcome], object], given: object, outcome: Outcome) -> None:
        try:
            self._results[index] = make(given, outcome)
        except Exception as error:
            if not self._keep_errors:
                raise
            self._results[index] = error

    def results(self) -> list[object]:
        """Return everything in the order of the inputs."""
        return [self._results[index] for index in range(self._count)]
