"""Who is measured: naive transformers, our engines behind our pool, and what others build around the same engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import torch

from guardrail_plugin.bench.load import Ask, Load, naive_verdict
from guardrail_plugin.core.errors import GuardrailError
from guardrail_plugin.models.kept import KeptRows
from guardrail_plugin.models.load import cpu_multiplies_bfloat16, load_causal_lm
from guardrail_plugin.models.rows import Engine
from guardrail_plugin.models.torch_generic import GenericEngine
from guardrail_plugin.models.torch_replica import TorchReplica
from guardrail_plugin.models.torch_threads import use_one_thread
from guardrail_plugin.pool import InferencePool, ScoreRequest, ScoreResult

MAX_BATCH = 64


class SkippedError(GuardrailError):
    """A contender cannot run here; the message says why."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What all contenders share: the base model's folder, the model itself, and the requests."""

    folder: Path
    model: Any
    load: Load


Opener: TypeAlias = Callable[[Bench], AbstractContextManager[Ask]]
"""Opens a way to get verdicts, to be used in one event loop. Raises SkippedError where it cannot run."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One line of the table.

    Attributes:
        alone: it has no queue to speak of, so only one concurrent caller is measured.
        bfloat16: it runs in that format, and its peak is measured in it.
    """

    name: str
    open: Opener
    alone: bool = False
    bfloat16: bool = False

    def bench_of(self, bench: Bench) -> Bench:
        """Return the bench with the model in this contender's format.

        Raises:
            SkippedError: this CPU multiplies no bfloat16.
        """
        if not self.bfloat16:
            return bench
        if not cpu_multiplies_bfloat16():
            raise SkippedError("this CPU has no instructions for bfloat16")
        return replace(bench, model=_in_bfloat16(bench.folder))


@lru_cache(1)
def _in_bfloat16(folder: Path) -> Any:
    return load_causal_lm(folder, dtype=torch.bfloat16)


def best(result: ScoreResult) -> int:
    """Return the index of the likeliest label."""
    return max(range(len(result.logprobs)), key=result.logprobs.__getitem__)


def replica_of(engine: Engine, *, kept_mb: int = 256) -> TorchReplica:
    """Return a replica with a store of its own, for one thread."""
    return TorchReplica(engine=engine, kept=KeptRows(max_bytes=kept_mb << 20))


def load_replica(folder: Path) -> TorchReplica:
    """Return the generic engine's replica in a process that is not ours, computing in one thread."""
    use_one_thread()
    return replica_of(GenericEngine(load_causal_lm(folder)))


@contextmanager
def naive(bench: Bench) -> Iterator[Ask]:
    """One full prompt after the other in one worker thread, the whole vocabulary at every position."""
    with ThreadPoolExecutor(1, initializer=use_one_thread) as worker:

        async def ask(request: ScoreRequest) -> int:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(worker, naive_verdict, bench.model, request.input_ids, request.label_ids)

        yield ask


def pooled(make: Callable[[Any], Engine], *, replicas: int = 1) -> Opener:
    """Return our pool around an engine, one thread per replica over shared weights."""

    @contextmanager
    def open_(bench: Bench) -> Iterator[Ask]:
        engine, kept = make(bench.model), KeptRows(max_bytes=256 << 20)

        def build(device: str) -> TorchReplica:
            use_one_thread()
            return TorchReplica(engine=engine, kept=kept)

        with InferencePool(replicas=replicas) as pool:
            pool.register("m", build)

            async def ask(request: ScoreRequest) -> int:
                return best(await asyncio.wrap_future(pool.submit(request)))

            yield ask

    return open_


@contextmanager
def direct(bench: Bench) -> Iterator[Ask]:
    """The generic engine without any queue: one request after the other in one worker thread."""
    replica = replica_of(GenericEngine(bench.model))
    with ThreadPoolExecutor(1, initializer=use_one_thread) as worker:

        async def ask(request: ScoreRequest) -> int:
            loop = asyncio.get_running_loop()
            return best((await loop.run_in_executor(worker, replica.score, [request]))[0])

        yield ask
