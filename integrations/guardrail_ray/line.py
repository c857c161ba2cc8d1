"""The line from one application to the fleet: an event loop in its own thread, and Ray's errors in our words."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from typing import TypeVar

import ray
from ray import exceptions as ray_errors
from ray import serve
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentResponseGenerator

from guardrail_plugin.core.errors import GuardrailError, InferenceError, PoolOverloaded, ReplicaDead
from guardrail_plugin.pool import Account, GenerateRequest, ScoreRequest, ScoreResult
from guardrail_ray.fleet import DEPLOYMENT
from guardrail_ray.wire import Failed, from_wire

T = TypeVar("T")

_GRACE_S = 2.0  # for the way there and back, beyond what the host's pool allows itself
_RETRY_AFTER_S = 1.0

_GONE = (
    ray_errors.RayActorError,
    ray_errors.NodeDiedError,
    ray_errors.WorkerCrashedError,
    ray_errors.ObjectLostError,
    ray_errors.OwnerDiedError,
    ray_errors.RaySystemError,
    RayServeException,
    CancelledError,  # Ray's own: a host that goes away cancels what it runs
)


class Line:
    """Calls hosts of one application of Ray Serve. Used by one thread of the pool.

    Raises:
        ReplicaDead: Ray knows no such application, or this process is not connected to a cluster.
    """

    def __init__(self, app: str, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        if not ray.is_initialized():  # Serve would start a cluster of its own here
            raise ReplicaDead("this process is not connected to a Ray cluster: call ray.init(address=...)")
        try:
            self._handle = serve.get_deployment_handle(DEPLOYMENT, app)
        except Exception as error:
            raise ReplicaDead(f"the fleet {app!r} cannot be reached ({type(error).__name__})") from error
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="guardrail-ray", daemon=True)
        self._thread.start()

    def score(self, requests: Sequence[ScoreRequest], accounts: Sequence[Account]) -> list[ScoreResult | Failed]:
        """Ask one host.

        Raises:
            ReplicaDead: it is gone, or silent for too long.
            PoolOverloaded: Ray itself turned the call away.
        """
        call = self._start(self._score(list(requests), list(accounts)))
        try:
            return call.result(self._timeout_s + _GRACE_S)
        except FutureTimeout:
            call.cancel()
            raise ReplicaDead(f"no host of the fleet answered within {self._timeout_s + _GRACE_S:g} s") from None
        except Exception as error:
            raise in_our_words(error) from error

    def stream(
        self, request: GenerateRequest, account: Account, tell: Callable[[int | str | GuardrailError], None]
    ) -> Future[None]:
        """Decode on one host. ``tell`` hears each token id, then the finish reason or an error, in another thread.

        Cancelling the future stops the decode.
        """
        stream = self._start(self._stream(request, account, tell))
        stream.add_done_callback(partial(_tell_if_cancelled, tell))
        return stream

    def close(self) -> None:
        """Cancel what runs and end the thread. Idempotent."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result(_GRACE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_GRACE_S)
        if not self._thread.is_alive():
            self._loop.close()

    async def _score(self, requests: list[ScoreRequest], accounts: list[Account]) -> list[ScoreResult | Failed]:
        response = self._handle.score.remote(requests, self._timeout_s, accounts)
        try:
            outcomes: list[ScoreResult | Failed] = await response
        except asyncio.CancelledError:
            response.cancel()  # type: ignore[no-untyped-call]
            raise
        return outcomes

    async def _stream(
        self, request: GenerateRequest, account: Account, tell: Callable[[int | str | GuardrailError], None]
    ) -> None:
        last: int | str | Failed = -1
        try:
            tokens = self._handle.options(stream=True).stream.remote(request, self._timeout_s, account)
            assert isinstance(tokens, DeploymentResponseGenerator)  # noqa: S101 - so says stream=True
            try:
                async for last in tokens:
                    tell(from_wire(last) if isinstance(last, Failed) else last)
            except asyncio.CancelledError:
                tokens.cancel()  # type: ignore[no-untyped-call]
                raise
            if isinstance(last, int):
                tell(ReplicaDead("a host of the fleet stopped in the middle of a decode"))
        except Exception as error:  # told here: a cancelled future would not take it, and asyncio log its text
            tell(in_our_words(error))

    def _start(self, work: Coroutine[object, object, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)


def in_our_words(error: Exception) -> GuardrailError:
    """Return our error for one of Ray's. Its text is not passed on: it may quote arguments."""
    if isinstance(error, GuardrailError):
        return error
    if isinstance(error, BackPressureError):
        return PoolOverloaded("every host of the fleet is full", retry_after_s=error.retry_after_s or _RETRY_AFTER_S)
    if isinstance(error, _GONE):
        return ReplicaDead(f"a host of the fleet is gone ({type(error).__name__})")
    return InferenceError(f"a host of the fleet failed ({type(error).__name__})")


def _tell_if_cancelled(tell: Callable[[int | str | GuardrailError], None], stream: Future[None]) -> None:
    if stream.cancelled():  # by Ray, or by the caller, who listens no more
        tell(in_our_words(CancelledError()))


async def _cancel_all() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
