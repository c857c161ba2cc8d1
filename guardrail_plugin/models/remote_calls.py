"""Calls to OpenAI-compatible servers: balanced, retried where that can help, with errors in the pool's own terms."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import tenacity

from guardrail_plugin.core.errors import GuardianTimeout, InferenceError, PoolOverloaded, ReplicaDead
from guardrail_plugin.models.remote_endpoints import Endpoint, Endpoints

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI

T = TypeVar("T")

_PROBE_S = 2.0
_RETRY_AFTER_S = 0.5  # where an overloaded server does not say
_LONGEST_WAIT_S = 2.0  # a server that asks for more than this is not waited for: the caller is told
_GRACE_S = 0.1  # beyond what callers wait: the pool, which tells them, is first
_NO_ACCESS = (401, 403)


class Garbled(Exception):
    """A server's answer makes no sense."""


class Midway(Exception):
    """A stream broke after some of it was used: it must not be begun anew here."""


class _Again(Exception):
    """This attempt failed; another may not. ``outcome``: what to raise if there is none."""

    def __init__(self, outcome: Exception) -> None:
        self.outcome = outcome
        super().__init__()


class _Patience:
    """How long the callers of a call wait for it."""

    def __init__(self, timeout_s: float | None, clock: Callable[[], float]) -> None:
        self._timeout_s = math.inf if timeout_s is None else timeout_s
        self._clock = clock
        self._until = clock() + self._timeout_s + _GRACE_S

    @property
    def over(self) -> bool:
        return self._clock() >= self._until

    @property
    def error(self) -> GuardianTimeout:
        return GuardianTimeout(self._timeout_s)

    def left_s(self) -> float:
        left_s = self._until - self._clock()
        if left_s <= 0:
            raise self.error
        return left_s


class Calls:
    """Makes calls to one model's servers. Thread-safe; shared by all replicas of the model.

    A call goes to the server with the fewest calls in flight among those that are well; one that gets no answer, 429 or
    5xx is tried again, elsewhere if there is an elsewhere; one that is refused (401, 403, 404) only elsewhere. A server
    that refuses or keeps failing is left alone and tried again after a pause. Neither a refusal nor callers who do not
    wait long enough take out the last server that is well.

    Args:
        clients: by URL. Their own retries are off.
        max_connections: calls at once; others wait for their turn.
        attempts: per call.
    """

    def __init__(
        self,
        clients: Mapping[str, OpenAI],
        *,
        max_connections: int = 64,
        attempts: int = 3,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.endpoints = Endpoints(tuple(clients))
        self.owners: frozenset[str] = frozenset()
        self._clients = clients
        self._free = threading.BoundedSemaphore(max_connections)
        self._attempts = attempts
        self._clock = clock
        self._sleep = sleep

    def probe(self) -> None:
        """Ask every server whether it is there, besides those that are left alone for now.

        Raises:
            ReplicaDead: none is.
        """
        due = self.endpoints.due(self._clock())
        asked = due + [one for one in self.endpoints.all if one.open_until is None]
        if asked:
            at_once([partial(self._try, one) for one in asked])
        if all(one.open_until is not None for one in self.endpoints.all):
            raise ReplicaDead(f"none of {len(self.endpoints.all)} servers of this model answers")

    def run(self, send: Callable[[OpenAI], T], *, timeout_s: float | None = None) -> T:
        """Make one call.

        Args:
            timeout_s: how long its callers wait, all attempts together; ``None``: as long as it takes.

        Raises:
            GuardianTimeout: they wait no longer.
            ReplicaDead: no server answers, or they refuse the key or the model.
            PoolOverloaded: they are overloaded and say for how long.
            InferenceError: this request is refused, or the answers make no sense.
        """
        failed: list[Endpoint] = []
        attempts = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self._attempts),
            wait=tenacity.wait_random_exponential(multiplier=0.05, max=1.0),
            retry=tenacity.retry_if_exception_type(_Again),
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return attempts(self._once, send, failed, _Patience(timeout_s, self._clock))
        except _Again as last:
            raise last.outcome from last.outcome.__cause__

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            client.close()

    def _once(self, send: Callable[[OpenAI], T], failed: list[Endpoint], patience: _Patience) -> T:
        for one in self.endpoints.due(self._clock()):
            threading.Thread(target=self._try, args=(one,), name="guardrail-probe", daemon=True).start()
        endpoint = self._borrow(failed, patience)
        try:
            with self._turn(patience):
                answer = send(self._client(endpoint, patience))
        except Exception as error:
            failed.append(endpoint)
            raise self._told(error, endpoint, patience) from None  # a server may quote the prompt that it refuses
        finally:
            self.endpoints.give_back(endpoint)
        self.endpoints.well(endpoint)
        return answer

    def _borrow(self, failed: Sequence[Endpoint], patience: _Patience) -> Endpoint:
        left_s = patience.left_s()
        try:
            return self.endpoints.borrow(self._clock(), besides=failed)
        except PoolOverloaded as full:
            if full.retry_after_s > _LONGEST_WAIT_S:
                raise
            self._sleep(min(full.retry_after_s, left_s))
            patience.left_s()
            return self.endpoints.borrow(self._clock(), besides=failed)

    @contextmanager
    def _turn(self, patience: _Patience) -> Iterator[None]:
        if not self._free.acquire(timeout=min(patience.left_s(), threading.TIMEOUT_MAX)):
            raise patience.error
        try:
            yield
        finally:
            self._free.release()

    def _client(self, endpoint: Endpoint, patience: _Patience) -> OpenAI:
        client, left_s = self._clients[endpoint.url], patience.left_s()
        own_s = client.timeout
        if left_s == math.inf or (isinstance(own_s, int | float) and own_s <= left_s):
            return client
        return client.with_options(timeout=left_s)

    def _told(self, error: Exception, endpoint: Endpoint, patience: _Patience) -> Exception:
        """Note what a failure says about the server; return what to raise."""
        import openai

        if isinstance(error, InferenceError | GuardianTimeout):
            return error
        if isinstance(error, openai.APIStatusError):
            return self._told_by_status(error, endpoint)
        now = self._clock()
        if patience.over:
            if self.endpoints.others(endpoint):
                self.endpoints.failed(endpoint, now, gone=False)
            return patience.error
        dead = _no_answer(error)
        if isinstance(error, Midway):
            self.endpoints.failed(endpoint, now, gone=False)
            return dead
        refused = isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError)
        self.endpoints.failed(endpoint, now, gone=refused)
        makes_no_sense = isinstance(error, Garbled | openai.APIResponseValidationError | ValueError)
        nonsense = InferenceError(f"the server's answer makes no sense ({type(error).__name__})")
        return _Again(nonsense if makes_no_sense else dead)

    def _told_by_status(self, error: APIStatusError, endpoint: Endpoint) -> Exception:
        now = self._clock()
        status = error.status_code
        if status == 429 or (status == 503 and "retry-after" in error.response.headers):
            seconds = _seconds(error.response.headers.get("retry-after"))
            self.endpoints.busy(endpoint, now, seconds=seconds)
            return _Again(PoolOverloaded("every server of this model is overloaded", retry_after_s=seconds))
        if status in (*_NO_ACCESS, 404):
            refusal = ReplicaDead(f"the server does not serve this model to us (status {status})")
            if not self.endpoints.others(endpoint):
                return refusal
            self.endpoints.failed(endpoint, now, gone=True, refuses=True)
            return _Again(refusal)
        if status == 408 or status >= 500:
            self.endpoints.failed(endpoint, now, gone=False)
            return _Again(_no_answer(error))
        return InferenceError(f"the server refuses this request (status {status})")

    def _try(self, endpoint: Endpoint) -> None:
        import openai

        try:
            listed = self._clients[endpoint.url].with_options(timeout=_PROBE_S, max_retries=0).models.list()
            self.owners |= {model.owned_by for model in listed.data}
        except openai.APIStatusError as error:
            # A server may list no models to anybody and yet serve ours, so this tells only of one that has refused us.
            refuses = endpoint.refuses and error.status_code in _NO_ACCESS
            if refuses or error.status_code >= 500:
                self.endpoints.failed(endpoint, self._clock(), gone=True, refuses=refuses)
                return
        except openai.APIConnectionError:
            self.endpoints.failed(endpoint, self._clock(), gone=True)
            return
        except Exception:  # noqa: S110 - somebody is there, though it knows no list of models
            pass
        self.endpoints.revived(endpoint)


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Make calls side by side, in threads that cannot keep the interpreter from exiting. Raises the first error."""
    if len(calls) == 1:
        return [calls[0]()]
    futures: list[Future[T]] = [Future() for _ in calls]

    def run(call: Callable[[], T], future: Future[T]) -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    for call, future in zip(calls, futures, strict=True):
        threading.Thread(target=run, args=(call, future), name="guardrail-remote", daemon=True).start()
    return [future.result() for future in futures]


def _no_answer(error: Exception) -> ReplicaDead:
    return ReplicaDead(f"a server of this model gave no answer ({type(error).__name__})")


def _seconds(header: str | None) -> float:
    try:
        return max(0.0, float(header)) if header is not None else _RETRY_AFTER_S
    except ValueError:  # a date
        return _RETRY_AFTER_S
