"""A replica that follows a script, for tests of whatever runs on the pool. No torch, no weights, no randomness."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from guardrail_plugin.pool.protocol import (
    FinishReason,
    GenerateRequest,
    Replica,
    ReplicaFactory,
    Request,
    ScoreRequest,
    ScoreResult,
    Token,
)

CallKind: TypeAlias = Literal["build", "score", "start", "step", "close"]


class OutOfMemoryError(RuntimeError):
    """Stands for ``torch.OutOfMemoryError``: recognised by its name."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call that a replica met: what kind, with which requests, in which thread."""

    kind: CallKind
    requests: tuple[Request, ...]
    thread: str

    @property
    def rows(self) -> int:
        """Number of requests."""
        return len(self.requests)


class Hold:
    """An ``on_call`` that keeps a replica busy: blocks calls of one kind until ``release``.

    Attributes:
        entered: set when the first such call has come.
    """

    def __init__(self, kind: CallKind = "score", *, most_s: float = 30.0) -> None:
        self.entered = threading.Event()
        self._kind = kind
        self._most_s = most_s
        self._released = threading.Event()

    def __call__(self, call: Call) -> None:
        if call.kind == self._kind:
            self.entered.set()
            if not self._released.wait(self._most_s):
                raise TimeoutError(f"nobody released the hold within {self._most_s:g} s")

    def release(self) -> None:
        """Let this call and all later ones through."""
        self._released.set()


class ScriptedReplica:
    """Answers as told, and fails as told. Give ``replica.factory`` to ``InferencePool.register``.

    Args:
        logprobs: request -> log-probabilities of its label tokens. Default: all alike.
        tokens: request -> token ids that it decodes to. Default: 0, 1, 2, ... up to ``max_new_tokens``.
        on_call: told of each call before it is answered, in the pool's thread. What it raises, the replica raises;
            while it blocks (``Hold`` does), the replica is busy.
        fail: request -> error that the whole batch raises, or ``None``. ``SystemExit`` or ``ReplicaDead`` kill the
            replica.
        max_rows: a batch with more rows is out of memory.

    Attributes:
        calls: every call so far, oldest first.

    Example:
        >>> replica = ScriptedReplica(logprobs=lambda request: [math.log(0.9), math.log(0.1)])
        >>> with InferencePool() as pool:
        ...     pool.register("guardian", replica.factory)
        ...     pool.submit(ScoreRequest("guardian", (1, 2, 3), (7, 8))).result()
    """

    def __init__(
        self,
        *,
        logprobs: Callable[[ScoreRequest], Sequence[float]] | None = None,
        tokens: Callable[[GenerateRequest], Sequence[int]] | None = None,
        on_call: Callable[[Call], None] | None = None,
        fail: Callable[[Request], BaseException | None] | None = None,
        max_rows: int | None = None,
    ) -> None:
        self.calls: list[Call] = []
        self._logprobs = logprobs or _uniform
        self._tokens = tokens or _count_up
        self._on_call = on_call
        self._fail = fail
        self._max_rows = max_rows

    @property
    def factory(self) -> ReplicaFactory:
        """A factory that notes each build and always gives this replica: it may be built again after it died."""

        def build(device: str) -> Replica:
            self._note("build", ())
            return self

        return build

    def score(self, batch: Sequence[ScoreRequest]) -> list[ScoreResult]:
        """Answer from the script."""
        self._meet("score", batch)
        return [ScoreResult(tuple(self._logprobs(request))) for request in batch]

    def start(self, batch: Sequence[GenerateRequest]) -> ScriptedDecode:
        """Begin a decode from the script."""
        self._meet("start", batch)
        return ScriptedDecode(batch, script=self._tokens, on_step=lambda live: self._meet("step", live))

    def close(self) -> None:
        """Note it. The replica can be built again."""
        self._note("close", ())

    def count(self, kind: CallKind) -> int:
        """Return how many calls of this kind there were."""
        return sum(call.kind == kind for call in self.calls)

    def _note(self, kind: CallKind, requests: Sequence[Request]) -> None:
        call = Call(kind, tuple(requests), threading.current_thread().name)
        self.calls.append(call)
        if self._on_call is not None:
            self._on_call(call)

    def _meet(self, kind: CallKind, requests: Sequence[Request]) -> None:
        self._note(kind, requests)
        if self._max_rows is not None and len(requests) > self._max_rows:
            raise OutOfMemoryError("the script allows fewer rows")
        for request in requests:
            error = self._fail(request) if self._fail is not None else None
            if error is not None:
                raise error


class ScriptedDecode:
    """A decode that emits scripted tokens, one per row and step, and ends each row as its request asks.

    Attributes:
        cancelled: rows that were cancelled.
        closed: whether it was closed.
    """

    def __init__(
        self,
        batch: Sequence[GenerateRequest],
        *,
        script: Callable[[GenerateRequest], Sequence[int]],
        on_step: Callable[[Sequence[GenerateRequest]], None],
    ) -> None:
        self.cancelled: set[int] = set()
        self.closed = False
        self._on_step = on_step
        self._requests = dict(enumerate(batch))
        self._left = {row: list(script(request)) for row, request in self._requests.items()}
        self._made = dict.fromkeys(self._requests, 0)

    def step(self) -> list[Token]:
        """Emit the next token of each live row."""
        if not self._requests:
            return []
        self._on_step(list(self._requests.values()))
        news: list[Token] = []
        for row in list(self._requests):
            news.extend(self._advance(row))
        return news

    def cancel(self, row: int) -> None:
        """Drop a row."""
        self.cancelled.add(row)
        self._requests.pop(row, None)

    def close(self) -> None:
        """Note it."""
        self.closed = True

    def _advance(self, row: int) -> list[Token]:
        request = self._requests[row]
        token_id = self._left[row].pop(0) if self._left[row] else None
        if token_id is None or token_id in request.stop_ids:
            return [self._ended(row, "stop")]
        self._made[row] += 1
        news = [Token(row, token_id)]
        return [*news, self._ended(row, "length")] if self._made[row] >= request.max_new_tokens else news

    def _ended(self, row: int, reason: FinishReason) -> Token:
        del self._requests[row]
        return Token(row, None, reason)


def _uniform(request: ScoreRequest) -> list[float]:
    return [-math.log(len(request.label_ids))] * len(request.label_ids)


def _count_up(request: GenerateRequest) -> range:
    return range(request.max_new_tokens)
