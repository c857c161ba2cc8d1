"""Replay answers token by token through the output rail with the real guardian, at several window sizes.

Run: ``python tests/benchmark/streaming_replay.py BEAVERTAILS_TEST.jsonl``. Rows hold ``text`` (the query), ``response``
and ``response_harmful``; half of the draw is unsafe. Each answer is streamed bare and guarded, one after the other, by
a fake model that takes ``--token-ms`` per token. Pieces of at most five letters stand for tokens.
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from figures import middle, options, progress, rows_of, share, shown, table, tell
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from guardrail_plugin import Check, Guardian, InferencePool, Policy, Verdict
from guardrail_plugin.flow import WindowSetting
from guardrail_plugin.guardian.protocol import CheckOutcome, GuardianProtocol
from guardrail_plugin.runnables import guard_model

WINDOWS: tuple[WindowSetting, ...] = ("sentence", 32, 128)
_TOKEN = re.compile(r"\s?\w{1,5}|\s?[^\w\s]|\s")


class ReplayModel(BaseChatModel):
    """Says one answer, token by token, in its own time."""

    answer: str
    token_s: float

    @property
    def _llm_type(self) -> str:
        return "replay"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        raise NotImplementedError("this model only streams")

    async def _astream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for token in _TOKEN.findall(self.answer):
            await asyncio.sleep(self.token_s)
            yield ChatGenerationChunk(message=AIMessageChunk(content=token))


class Recorder:
    """The guardian, and how far into an answer its verdicts reach.

    Attributes:
        covered: for each character of the answer, whether a verdict that allowed it had come.
        seconds: what each check took.
    """

    def __init__(self, guardian: Guardian, answer: str) -> None:
        self._guardian = guardian
        self._answer = answer
        self.covered = [False] * len(answer)
        self.seconds: list[float] = []

    @property
    def id(self) -> str:
        """The guardian's."""
        return self._guardian.id

    def check_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Ask the guardian."""
        return self._note(checks, self._guardian.check_many(checks, timeout_s=timeout_s))

    async def acheck_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
        """Ask the guardian. Cancellation: passes."""
        started = perf_counter()
        outcomes = await self._guardian.acheck_many(checks, timeout_s=timeout_s)
        self.seconds.append(perf_counter() - started)
        return self._note(checks, outcomes)

    def respond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
        """Write at once: decoding a response is measured elsewhere."""
        return "I can't help with that."

    async def arespond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
        """Like ``respond``."""
        return self.respond(check, verdict)

    def _note(self, checks: Sequence[Check], outcomes: list[CheckOutcome]) -> list[CheckOutcome]:
        for check, outcome in zip(checks, outcomes, strict=True):
            start = self._answer.find(check.text)
            if isinstance(outcome, Verdict) and not outcome.harmful and start >= 0:
                self.covered[start : start + len(check.text)] = [True] * len(check.text)
        return outcomes


@dataclass(frozen=True, slots=True)
class Replayed:
    """One answer's way through. Units: seconds; ``released`` is a share of its characters."""

    unsafe: bool
    cut: bool
    released: float
    unchecked: int
    first_s: float
    total_s: float


async def replay(row: dict[str, Any], window: WindowSetting, guardian: Guardian, token_s: float) -> Replayed:
    """Stream one answer through the rail."""
    answer = "".join(_TOKEN.findall(row["response"]))
    recorder = Recorder(guardian, answer)
    watched: GuardianProtocol = recorder
    replayed = ReplayModel(answer=answer, token_s=token_s)
    model = guard_model(replayed, guardian=watched, policy=Policy(timeout_s=600), window=window)
    left, unchecked, first, blocked = 0, 0, 0.0, False
    started = perf_counter()
    async for chunk in model.astream(row["text"]):
        if "guardrail" in chunk.response_metadata:
            blocked = True
        elif chunk.text:
            first = first or perf_counter() - started
            unchecked += recorder.covered[left : left + len(chunk.text)].count(False)
            left += len(chunk.text)
    total = perf_counter() - started
    share_left = left / max(len(answer), 1)
    return Replayed(bool(row["response_harmful"]), blocked, share_left, unchecked, first or total, total)


async def bare(row: dict[str, Any], token_s: float) -> tuple[float, float]:
    """Return when the first token and the last came without a rail. Units: seconds."""
    first, started = 0.0, perf_counter()
    async for chunk in ReplayModel(answer=row["response"], token_s=token_s).astream(row["text"]):
        first = first or (perf_counter() - started if chunk.text else 0.0)
    return first, perf_counter() - started


def drawn(path: Path, n: int, seed: int) -> list[dict[str, Any]]:
    """Draw answers, half of them unsafe, none empty."""
    rows = [row for row in rows_of(path) if row.get("response_harmful") is not None and row["response"].strip()]
    rng = random.Random(seed)
    unsafe = [row for row in rows if row["response_harmful"]]
    safe = [row for row in rows if not row["response_harmful"]]
    chosen = rng.sample(unsafe, min(n // 2, len(unsafe))) + rng.sample(safe, min(n - n // 2, len(safe)))
    rng.shuffle(chosen)
    return chosen


async def measure(rows: Sequence[dict[str, Any]], guardian: Guardian, token_s: float) -> dict[str, Any]:
    """Replay all rows at all windows."""
    found: dict[str, Any] = {str(window): [] for window in WINDOWS}
    found["bare"] = []
    await guardian.acheck_many([Check("warm up", rail="output", query="hello")])
    for row in progress(rows, "answers"):
        found["bare"].append(await bare(row, token_s))
        for window in WINDOWS:
            found[str(window)].append(await replay(row, window, guardian, token_s))
    return found


def summary(found: dict[str, Any], window: str, seed: int) -> dict[str, Any]:
    """Return the figures of one window."""
    runs: list[Replayed] = found[window]
    unsafe, safe = [run for run in runs if run.unsafe], [run for run in runs if not run.unsafe]
    pairs = [(run, alone) for run, alone in zip(runs, found["bare"], strict=True) if not run.cut]
    return {
        "unchecked_characters": sum(run.unchecked for run in runs),
        "unsafe_cut": share(sum(run.cut for run in unsafe), len(unsafe)),
        "unsafe_cut_at": middle([run.released for run in unsafe if run.cut], seed=seed),
        "safe_cut": share(sum(run.cut for run in safe), len(safe)),
        "first_token_added_s": middle([run.first_s - alone[0] for run, alone in pairs], seed=seed),
        "total_added_s": middle([run.total_s - alone[1] for run, alone in pairs], seed=seed),
        "total_added_share": middle([run.total_s / alone[1] - 1 for run, alone in pairs], seed=seed),
    }


def main() -> int:
    """Print the table. Returns 1 when a character left unchecked."""
    parser = options(__doc__, n=200, what="answers")
    parser.add_argument("data", type=Path, help="JSONL with text, response, response_harmful")
    parser.add_argument("--token-ms", type=float, default=20.0, help="what the fake model takes for a token")
    given = parser.parse_args()
    with InferencePool() as pool:
        guardian = Guardian.load(pool=pool, dtype=given.dtype)
        rows = drawn(given.data, given.n, given.seed)
        found = asyncio.run(measure(rows, guardian, given.token_ms / 1000))
    figures = {str(window): summary(found, str(window), given.seed) for window in WINDOWS}
    head = ["window", "unchecked characters", "unsafe cut", "shown before the cut (median)", "safe cut"]
    head += ["first token later by (median)", "whole answer later by (median)", "of its time"]
    lines = [
        [
            name if name == "sentence" else f"{name} words",
            str(one["unchecked_characters"]),
            shown(one["unsafe_cut"], "%"),
            shown(one["unsafe_cut_at"], "%"),
            shown(one["safe_cut"], "%"),
            shown(one["first_token_added_s"], "s"),
            shown(one["total_added_s"], "s"),
            shown(one["total_added_share"], "%"),
        ]
        for name, one in figures.items()
    ]
    tell("streaming_replay", given, figures, table(head, lines))
    return int(any(one["unchecked_characters"] for one in figures.values()))


if __name__ == "__main__":
    sys.exit(main())
