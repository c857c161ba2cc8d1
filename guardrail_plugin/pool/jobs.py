"""A request on its way through the pool, and the future its caller holds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field, replace
from typing import Generic, TypeAlias, TypeVar

from guardrail_plugin.core.errors import GuardianTimeout, InferenceError, PoolError
from guardrail_plugin.pool.lane import Item
from guardrail_plugin.pool.protocol import FinishReason, GenerateRequest, Generation, ScoreRequest, ScoreResult

_log = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")


class Reply(Future[ResultT]):
    """A future that tells the pool at once when its caller cancels it, so that its place in the queue is free again."""

    def __init__(self) -> None:
        super().__init__()
        self.on_cancel: Callable[[], None] | None = None
        self._unclaimed = [True]  # popped once, atomically: a future may be marked running or cancelled only once

    def begin(self) -> bool:
        """Mark as running, if it is not yet. Returns False if its caller has cancelled it."""
        return self.set_running_or_notify_cancel() if self._claim() else not self.cancelled()

    def cancel(self) -> bool:
        """Cancel the request if it has not started. Returns whether it is cancelled."""
        if not super().cancel():
            return False
        if self._claim():
            self.set_running_or_notify_cancel()  # wakes concurrent.futures.wait, which a bare cancel does not
        on_cancel = self.on_cancel
        if on_cancel is not None:
            on_cancel()
        return True

    def _claim(self) -> bool:
        try:
            return self._unclaimed.pop()
        except IndexError:
            return False


@dataclass(slots=True, kw_only=True, eq=False)
class Job(Item, Generic[ResultT]):
    """A request with its caller's future. ``answer`` and ``fail`` are only for whoever ``Scheduler`` named.

    Attributes:
        timeout_s: what the caller asked for; for the error's message.
        estimate_s: how long it was thought to take when it came; ``None``: nothing stood before it.
        abandoned: nobody waits any more, though it runs: its answer may be dropped.
        future: what the caller waits on. Never touched under the pool's lock, except to mark it as running.
    """

    timeout_s: float | None = None
    estimate_s: float | None = None
    abandoned: bool = False
    future: Reply[ResultT] = field(default_factory=Reply, repr=False)

    def answer(self, result: ResultT) -> None:
        """Hand the result to the caller."""
        self._end(lambda: self.future.set_result(result))

    def fail(self, error: Exception) -> None:
        """Hand the error to the caller."""
        self._end(lambda: self.future.set_exception(error))

    def expire(self) -> None:
        """Tell the caller that the deadline has passed."""
        self.fail(GuardianTimeout(self.timeout_s or 0.0))

    def refuse(self, error: BaseException) -> None:
        """Tell the caller that the model failed on this request; the message names the error's type only.

        Errors of the pool's own kind, which a replica brings from a server or fleet, are told as they are.
        """
        if isinstance(error, GuardianTimeout) and self.timeout_s is not None:
            self.expire()  # in the words of this pool's caller, who knows nothing of another pool behind
            return
        if isinstance(error, (PoolError, GuardianTimeout)):
            self.fail(error)
            return
        failure = InferenceError(f"the model failed on this request ({type(error).__name__})")
        failure.__cause__ = error
        self.fail(failure)

    def _end(self, set_outcome: Callable[[], None]) -> None:
        self.future.on_cancel = None  # also breaks the cycle job -> future -> job
        try:
            set_outcome()
        except InvalidStateError:
            pass  # cancelled in the moment between the decision and now
        except BaseException as error:  # a caller's done-callback must not end the worker
            _log.error("a done-callback of a pool future raised %s", type(error).__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class ScoreJob(Job[ScoreResult]):
    """A ``ScoreRequest`` on its way."""

    request: ScoreRequest = field(repr=False)


@dataclass(slots=True, kw_only=True, eq=False)
class GenerateJob(Job[Generation]):
    """A ``GenerateRequest`` on its way, with what has been decoded of it."""

    request: GenerateRequest = field(repr=False)
    on_token: Callable[[int], None] | None = field(default=None, repr=False)
    token_ids: list[int] = field(default_factory=list, repr=False)

    def remaining(self) -> GenerateRequest:
        """Return what is left to decode, so that a row survives its replica.

        A greedy row goes on with the same ids; a sampled one from another point of its random stream.
        """
        made = len(self.token_ids)
        if made == 0:
            return self.request
        return replace(
            self.request,
            input_ids=self.request.input_ids + tuple(self.token_ids),
            max_new_tokens=self.request.max_new_tokens - made,
            seed=self.request.seed + made,
        )

    def emit(self, token_id: int) -> None:
        """Keep a token and pass it to the stream, if there is one."""
        self.token_ids.append(token_id)
        if self.on_token is not None:
            self.on_token(token_id)

    def generation(self, reason: FinishReason) -> Generation:
        """Return what was decoded."""
        return Generation(tuple(self.token_ids), reason)


AnyJob: TypeAlias = ScoreJob | GenerateJob
