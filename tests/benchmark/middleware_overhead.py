"""Measure what ``GuardrailMiddleware`` adds to a model call of an agent, with a guardian that allows all at once.

Run: ``python tests/benchmark/middleware_overhead.py``. Four agents over the same scripted model take turns: without
middleware, with a no-op that has the same hooks, with a no-op that only wraps calls, and with the rails, in an order
that rotates; garbage is collected before each round, or the first would pay for the last. Goal: at most 1 ms per model
call over the no-op with the same hooks. On a machine that does other work, ``--cpu`` counts this process's CPU time
instead of the time on the wall.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable
from time import perf_counter, process_time
from typing import Any

from figures import middle, options, progress, shown, table, tell
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse

from guardrail_langchain import GuardrailMiddleware
from guardrail_plugin.testing import ScriptedModel, allow_all

GOAL_MS = 1.0
CONCURRENCY = 100
Clock = Callable[[], float]
ASKING: Any = {"messages": [("user", "How are you?")]}


class WrapOnly(AgentMiddleware[Any, Any, Any]):
    """Passes model calls on."""

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Pass it on."""
        return handler(request)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Pass it on. Cancellation: passes."""
        return await handler(request)


class SameHooks(WrapOnly):
    """Has every hook that the rails have, and does nothing in them."""

    def before_agent(self, state: Any, runtime: Any) -> None:
        """Do nothing."""

    async def abefore_agent(self, state: Any, runtime: Any) -> None:
        """Do nothing."""

    def before_model(self, state: Any, runtime: Any) -> None:
        """Do nothing."""

    async def abefore_model(self, state: Any, runtime: Any) -> None:
        """Do nothing."""

    def after_model(self, state: Any, runtime: Any) -> None:
        """Do nothing."""

    async def aafter_model(self, state: Any, runtime: Any) -> None:
        """Do nothing."""


def agents() -> dict[str, Any]:
    """Return the agents that are compared."""
    made: dict[str, list[Any]] = {
        "bare": [],
        "no-op, wraps only": [WrapOnly()],
        "no-op, same hooks": [SameHooks()],
        "rails": [GuardrailMiddleware(guardian=allow_all())],
    }
    model = ScriptedModel(("I am ", "fine."))
    return {name: create_agent(model, [], middleware=rails) for name, rails in made.items()}


def rotated(compared: dict[str, Any], turn: int) -> list[tuple[str, Any]]:
    """Return the agents in an order that changes with each turn, so that none always follows the same other."""
    items = list(compared.items())
    first = turn % len(items)
    return [*items[first:], *items[:first]]


def sequential_ms(compared: dict[str, Any], calls: int, clock: Clock) -> dict[str, list[float]]:
    """Time ``invoke`` of each agent in turns. Units: milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in compared}
    for turn in progress(range(calls + 20), "invoke"):
        for name, agent in rotated(compared, turn):
            started = clock()
            agent.invoke(ASKING)
            if turn >= 20:
                times[name].append((clock() - started) * 1e3)
    return times


async def concurrent_ms(compared: dict[str, Any], rounds: int, clock: Clock) -> dict[str, list[float]]:
    """Time rounds of concurrent ``ainvoke``, per call. Units: milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in compared}
    for turn in progress(range(rounds + 1), "ainvoke"):
        for name, agent in rotated(compared, turn):
            gc.collect()  # each pays for its own garbage alone
            started = clock()
            await asyncio.gather(*(agent.ainvoke(ASKING) for _ in range(CONCURRENCY)))
            if turn:
                times[name].append((clock() - started) * 1e3 / CONCURRENCY)
    return times


def main() -> int:
    """Print the table. Returns 1 with ``--check`` when the goal is missed."""
    parser = options(__doc__, n=500, what="sequential calls of each agent")
    parser.add_argument("--rounds", type=int, default=10, help=f"rounds of {CONCURRENCY} concurrent calls of each")
    parser.add_argument("--cpu", action="store_true", help="count CPU time")
    parser.add_argument("--check", action="store_true", help="exit 1 when the goal is missed")
    given = parser.parse_args()
    clock: Clock = process_time if given.cpu else perf_counter
    gc.collect()
    gc.freeze()  # what imports made is no contender's garbage
    found = {
        "sequential invoke": sequential_ms(agents(), given.n, clock),
        f"{CONCURRENCY} concurrent ainvoke, per call": asyncio.run(concurrent_ms(agents(), given.rounds, clock)),
    }
    figures: dict[str, Any] = {}
    lines = []
    for way, times in found.items():
        figures[way] = {name: middle(values, seed=given.seed) for name, values in times.items()}
        for base in ("bare", "no-op, wraps only", "no-op, same hooks"):
            paired = [rails - other for rails, other in zip(times["rails"], times[base], strict=True)]
            figures[way][f"rails over {base}"] = middle(paired, seed=given.seed)
        lines += [[way, name, shown(figure, "ms")] for name, figure in figures[way].items()]
    tell("middleware_overhead", given, figures, table(["way", "what", "median"], lines))
    worst = max(one["rails over no-op, same hooks"]["value"] for one in figures.values())
    return int(given.check and worst > GOAL_MS)


if __name__ == "__main__":
    sys.exit(main())
