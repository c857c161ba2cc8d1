"""The shared inference pool: everything that needs a model runs here, whoever asks, from threads or event loops."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Literal, TypeAlias, get_args, overload

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.pool import settings, streams
from guardrail_plugin.pool.admission import Limits
from guardrail_plugin.pool.bridge import ScoreMany, adrive, drive, queue_in, settle
from guardrail_plugin.pool.intake import Intake, Terms
from guardrail_plugin.pool.jobqueue import JobQueue
from guardrail_plugin.pool.jobs import AnyJob, GenerateJob
from guardrail_plugin.pool.lifecycle import Lifecycle
from guardrail_plugin.pool.protocol import (
    GenerateRequest,
    Generation,
    ReplicaFactory,
    Request,
    ScoreRequest,
    ScoreResult,
)
from guardrail_plugin.pool.slot import Slot
from guardrail_plugin.pool.stats import PoolStats, prefix_stats
from guardrail_plugin.pool.tenancy import current_tenant

_BATCH_TOKENS = 1024

OnFull: TypeAlias = Literal["reject", "wait"]
"""What a caller meets when the queue is full."""


class InferencePool(Lifecycle):
    """Runs the requests of many callers in shared batches. Safe to share between threads and event loops.

    Use it in ``with`` or ``async with``. A free slot takes what is waiting at once; nothing waits for a batch to fill.

    Args:
        devices: for example ``["cuda:0", "cuda:1"]``. ``None``: the factories choose (they are called with ``"auto"``).
        replicas: slots per device; each is a thread with replicas of its own. ``None``: as many as a model's factory
            finds good for the machine, added when the first model is loaded (local models: one per GPU, or one per
            core on a CPU, each computing in one thread).
        max_queued: waiting requests; every item of a list counts.
        max_queued_tokens: their tokens. A single request larger than this is let in when the queue is empty.
        max_batch: rows of a batch.
        max_batch_tokens: tokens of a batch, padding counted. A single request larger than this runs alone. ``None``:
            what a replica measured when it was loaded (local models on a GPU do), else 1024, which suits a CPU (763
            verdicts on two cores: 41 per second at 512 or 1024, 34 at 4096).
        max_decode_tokens: prompt tokens of all decodes in progress on one slot, padding counted.
        max_model_mb: memory for the models of one device, weights and kept keys and values, where their replicas tell.
            A model that does not fit beside the others takes the place of those that were not used longest; one whose
            decode is running leaves when that has ended. ``None``: models leave only when memory runs out.
        drain_s: how long leaving the pool waits for queued work.
        on_full: ``"reject"`` raises ``PoolOverloaded``; ``"wait"`` holds the caller back until there is room or
            its time is up (``submit`` and ``submit_many`` then block their thread: event loops use the ``a...`` ones).
            In the pool's own threads, where done-callbacks run, these two reject all the same.
        max_score_streak: score batches that may pass while a decode waits for its next step.
        max_decodes: decodes in progress per slot.
        max_attempts: replicas that may die under one request before it fails.
        coalesce: whether equal score requests of a tenant that are in flight at once are run once. Each caller has
            a deadline and a cancellation of its own still.

    Every call takes ``timeout_s``; ``priority`` (higher goes sooner: one level counts like a second of waiting, between
    tenants like a head start of 1024 tokens, so that nobody starves); and ``tenant`` (default: whoever
    ``on_behalf_of`` names). Tenants with work waiting get equal shares, in tokens.

    Raises:
        ConfigError: a value is out of range.

    Does not: interrupt a running forward pass.
    """

    def __init__(
        self,
        *,
        devices: Sequence[str] | None = None,
        replicas: int | None = None,
        max_queued: int = 1024,
        max_queued_tokens: int = 262_144,
        max_batch: int = 64,
        max_batch_tokens: int | None = None,
        max_decode_tokens: int = 4096,
        max_model_mb: int | None = None,
        drain_s: float = 10.0,
        on_full: OnFull = "reject",
        max_score_streak: int = 4,
        max_decodes: int = 4,
        max_attempts: int = 3,
        coalesce: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        slots_per_device = 1 if replicas is None else replicas
        settings.positive(replicas=slots_per_device, max_queued=max_queued, max_queued_tokens=max_queued_tokens)
        batch_tokens = _BATCH_TOKENS if max_batch_tokens is None else max_batch_tokens
        settings.positive(max_batch=max_batch, max_batch_tokens=batch_tokens, max_attempts=max_attempts)
        settings.positive(max_decode_tokens=max_decode_tokens, max_model_mb=1 if max_model_mb is None else max_model_mb)
        settings.positive(max_score_streak=max_score_streak, max_decodes=max_decodes)
        settings.choice(name="on_full", value=on_full, known=get_args(OnFull))
        limits = Limits(
            max_queued=max_queued,
            max_queued_tokens=max_queued_tokens,
            max_batch=max_batch,
            max_batch_tokens=batch_tokens,
            max_decode_tokens=max_decode_tokens,
        )
        slots = [
            Slot(
                index=i,
                device=name,
                limits=limits,
                max_score_streak=max_score_streak,
                max_decodes=max_decodes,
                measures=max_batch_tokens is None,
            )
            for i, name in enumerate(settings.device_names(devices, slots_per_device))
        ]
        queue = JobQueue(
            limits=limits,
            slots=slots,
            max_attempts=max_attempts,
            clock=clock,
            max_model_bytes=None if max_model_mb is None else max_model_mb << 20,
        )
        super().__init__(
            queue=queue,
            clock=clock,
            drain_s=settings.seconds(name="drain_s", value=drain_s),
            grows=replicas is None,
        )
        self._limits = limits
        self._intake = Intake(factories=self._factories, clock=clock, check=self._check_process, coalesce=coalesce)
        self._wait = on_full == "wait"

    def __enter__(self) -> InferencePool:
        self.open()
        return self

    async def __aenter__(self) -> InferencePool:
        self.open()
        return self

    def register(self, model: str, factory: ReplicaFactory) -> None:
        """Make a model known. Its replicas are built when first needed. A key that is known keeps its first factory."""
        if not isinstance(model, str) or not model:
            raise ConfigError(f"a model key is a non-empty string, got {model!r}")
        self._factories.setdefault(model, factory)

    @overload
    def submit(
        self, request: ScoreRequest, *, timeout_s: float | None = None, priority: int = 0, tenant: str | None = None
    ) -> Future[ScoreResult]: ...

    @overload
    def submit(
        self, request: GenerateRequest, *, timeout_s: float | None = None, priority: int = 0, tenant: str | None = None
    ) -> Future[Generation]: ...

    def submit(
        self, request: Request, *, timeout_s: float | None = None, priority: int = 0, tenant: str | None = None
    ) -> Future[ScoreResult] | Future[Generation]:
        """Queue one request. In async code: ``await asyncio.wrap_future(pool.submit(request))``.

        The future fails with GuardianTimeout at ``timeout_s``, with InferenceError if the model fails on this request,
        with ReplicaDead, or with PoolClosed.

        Raises:
            PoolOverloaded: the queue is full, or the estimated wait is longer than ``timeout_s``.
            PoolClosed, ReplicaDead, GuardianTimeout: it is known at once that it cannot run.
            ConfigError: no such model; an impossible ``timeout_s`` or ``priority``.

        Cancellation: cancelling the future frees its place in the queue; what runs already cannot be cancelled.
        """
        terms = self._intake.terms(timeout_s=timeout_s, priority=priority, tenant=tenant)
        if isinstance(request, ScoreRequest):
            score = self._intake.score(request, terms)
            self._enter([score])
            return score.future
        decode = self._intake.generate(request, terms)
        self._enter([decode])
        return decode.future

    @overload
    def submit_many(
        self,
        requests: Sequence[ScoreRequest],
        *,
        timeout_s: float | None = None,
        priority: int = 0,
        tenant: str | None = None,
    ) -> list[Future[ScoreResult]]: ...

    @overload
    def submit_many(
        self,
        requests: Sequence[GenerateRequest],
        *,
        timeout_s: float | None = None,
        priority: int = 0,
        tenant: str | None = None,
    ) -> list[Future[Generation]]: ...

    def submit_many(
        self,
        requests: Sequence[Request],
        *,
        timeout_s: float | None = None,
        priority: int = 0,
        tenant: str | None = None,
    ) -> list[Future[ScoreResult]] | list[Future[Generation]]:
        """Queue a list of one kind as one unit: all of it or nothing.

        Raises:
            PoolOverloaded: there is no room for all; or the list is larger than the whole queue, which no waiting
                mends: submit that in parts, or use ``score_many``, which does. Else as ``submit``.
        """
        terms = self._intake.terms(timeout_s=timeout_s, priority=priority, tenant=tenant)
        scores = [self._intake.score(r, terms) for r in requests if isinstance(r, ScoreRequest)]
        decodes = [self._intake.generate(r, terms) for r in requests if isinstance(r, GenerateRequest)]
        if scores and decodes:
            raise ConfigError("submit_many takes score requests or generate requests, not both in one list")
        self._enter([*scores, *decodes])
        answers: list[Future[ScoreResult]] = [job.future for job in scores]
        generations: list[Future[Generation]] = [job.future for job in decodes]
        return generations or answers

    def score_many(
        self,
        requests: Sequence[ScoreRequest],
        *,
        timeout_s: float | None = None,
        priority: int = 0,
        tenant: str | None = None,
    ) -> list[ScoreResult | Exception]:
        """Score a list of any length, and wait. Where the pool has no answer, the error stands in its place.

        A list that the queue can hold is queued as one unit; a longer one part by part.

        Raises:
            ConfigError: no such model; an impossible ``timeout_s`` or ``priority``.
        """
        many = self._score_many(requests, self._intake.terms(timeout_s=timeout_s, priority=priority, tenant=tenant))
        drive(many.flow())
        return many.outcomes

    async def ascore_many(
        self,
        requests: Sequence[ScoreRequest],
        *,
        timeout_s: float | None = None,
        priority: int = 0,
        tenant: str | None = None,
    ) -> list[ScoreResult | Exception]:
        """Like ``score_many``. Cancellation: queued work is withdrawn, running work is dropped when it ends."""
        many = self._score_many(requests, self._intake.terms(timeout_s=timeout_s, priority=priority, tenant=tenant))
        await adrive(many.flow())
        return many.outcomes

    def generate(
        self, request: GenerateRequest, *, timeout_s: float | None = None, priority: int = 0, tenant: str | None = None
    ) -> Generation:
        """Decode, and wait for the end. Raises what ``submit`` and its future raise."""
        job = self._intake.generate(request, self._intake.terms(timeout_s=timeout_s, priority=priority, tenant=tenant))
        drive(settle(self._queue, [job], wait=self._wait))
        return job.future.result()

    async def agenerate(
        self, request: GenerateRequest, *, timeout_s: float | None = None, priority: int = 0, tenant: str | None = None
    ) -> Generation:
        """Like ``generate``. Cancellation: the decode is stopped before its next step."""
        job = self._intake.generate(request, self._intake.terms(timeout_s=timeout_s, priority=priority, tenant=tenant))
        await adrive(settle(self._queue, [job], wait=self._wait))
        return job.future.result()

    def stream(
        self, request: GenerateRequest, *, timeout_s: float | None = None, priority: int = 0, tenant: str | None = None
    ) -> Generator[int, None, None]:
        """Decode and yield token ids as they come. Submits at the first ``next``; raises as ``generate`` does.

        Cancellation: ``break``, ``close`` or dropping the last reference stops the decode before its next step.
        """
        self._check_process()
        return streams.stream(
            self._queue,
            self._later(request, timeout_s, priority, tenant),
            wait=self._wait,
        )

    def astream(
        self, request: GenerateRequest, *, timeout_s: float | None = None, priority: int = 0, tenant: str | None = None
    ) -> AsyncGenerator[int, None]:
        """Like ``stream``. Cancellation: also cancelling the task that reads stops the decode."""
        self._check_process()
        return streams.astream(
            self._queue,
            self._later(request, timeout_s, priority, tenant),
            wait=self._wait,
        )

    def stats(self) -> PoolStats:
        """Return the counters of this moment."""
        self._check_process()
        return replace(self._queue.snapshot(), prefixes=tuple(prefix_stats(self._factories)))

    def _later(
        self, request: GenerateRequest, timeout_s: float | None, priority: int, tenant: str | None
    ) -> Callable[[], GenerateJob]:
        account = current_tenant() if tenant is None else tenant  # whoever asks, wherever the stream is read
        return lambda: self._intake.generate(
            request, self._intake.terms(timeout_s=timeout_s, priority=priority, tenant=account)
        )

    def _score_many(self, requests: Sequence[ScoreRequest], terms: Terms) -> ScoreMany:
        jobs = [self._intake.score(request, terms) for request in requests]
        return ScoreMany(jobs, queue=self._queue, limits=self._limits, wait=self._wait)

    def _enter(self, jobs: Sequence[AnyJob]) -> None:
        if jobs:
            # A done-callback may run in a thread that makes the room: that one cannot wait for it.
            wait = self._wait and not self._engine.owns_current_thread()
            drive(queue_in(self._queue, jobs, wait=wait))
