"""Measure what is no plain verdict: responses, verdicts beside responses, the pool's own cost, overload."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections import Counter
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import torch

from guardrail_plugin.bench.contenders import Bench, best, replica_of
from guardrail_plugin.bench.load import closed_loop, cpu_seconds, p95
from guardrail_plugin.core.errors import GuardianTimeout, PoolOverloaded
from guardrail_plugin.models.kept import KeptRows
from guardrail_plugin.models.torch_packed import PackedEngine
from guardrail_plugin.models.torch_replica import TorchReplica
from guardrail_plugin.models.torch_threads import use_one_thread
from guardrail_plugin.pool import Decode, GenerateRequest, InferencePool, ScoreRequest, ScoreResult

_CLIENTS = 8
_TICK_S = 0.01  # in which the system counts processor time
_FIRST_ID = 28  # what a response's prompt adds to its verdict's: any token


def responses(bench: Bench, *, rows: int, tokens: int, rounds: int) -> dict[str, float]:
    """Return tokens per processor second: ``generate`` from the full prompts, and decoding from the verdicts' rows."""
    prompts = [bench.load.prompts[i % len(bench.load.prompts)] for i in range(rows)]
    made = rows * tokens
    rates: dict[str, list[float]] = {"generate": [], "kept": []}
    for _ in range(rounds):
        rates["generate"].append(made / max(_TICK_S, cpu_seconds(lambda: _generate(bench.model, prompts, tokens))[0]))
        replica = replica_of(PackedEngine(bench.model), kept_mb=1024)
        replica.score([bench.load.request(i % len(bench.load.prompts)) for i in range(rows)])
        decode = replica.start([GenerateRequest("m", (*prompt, _FIRST_ID), tokens) for prompt in prompts])

        def drain(decode: Any = decode) -> None:
            while decode.step():
                pass

        rates["kept"].append(made / max(_TICK_S, cpu_seconds(drain)[0]))
        decode.close()
    return {name: statistics.median(values) for name, values in rates.items()}


def _generate(model: Any, prompts: list[tuple[int, ...]], tokens: int) -> None:
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    ends = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
    model.generate(ids, attention_mask=mask, **ends)


async def beside_responses(bench: Bench, *, verdicts: int, rows: int, tokens: int, rounds: int) -> dict[str, float]:
    """Return the p95 of verdicts with 8 callers, alone and while responses are decoded all the time. Units: ms."""
    count = len(bench.load.prompts)
    requests = [bench.load.request(i % count) for i in range(verdicts)]
    found: dict[str, list[float]] = {"alone": [], "decoding": []}
    async with _packed_pool(bench, replicas=2) as pool:

        async def ask(request: ScoreRequest) -> int:
            return best(await asyncio.wrap_future(pool.submit(request)))

        async def respond(index: int) -> None:
            while True:
                await pool.agenerate(GenerateRequest("m", (*bench.load.prompts[index % count], _FIRST_ID), tokens))

        await closed_loop(ask, requests[:count], concurrency=_CLIENTS)  # their rows are kept from here
        for _ in range(rounds):
            for name, values in found.items():
                decoding = [asyncio.create_task(respond(i)) for i in range(rows * (name == "decoding"))]
                await asyncio.sleep(1.0 if decoding else 0.0)  # into the decodes
                values.append(p95((await closed_loop(ask, requests, concurrency=_CLIENTS))[1]) * 1e3)
                for task in decoding:
                    task.cancel()
                await asyncio.gather(*decoding, return_exceptions=True)
    return {name: statistics.median(values) for name, values in found.items()}


class _Instant:
    """A replica that knows the answer."""

    def score(self, batch: Sequence[ScoreRequest]) -> list[ScoreResult]:
        return [ScoreResult((0.0, -1.0))] * len(batch)

    def start(self, batch: Sequence[GenerateRequest]) -> Decode:
        raise NotImplementedError

    def close(self) -> None:
        pass


def pool_cost_ms(*, calls: int = 2000) -> dict[str, float]:
    """Return what the pool adds to one call at a time, around a replica that answers at once. Units: milliseconds."""
    request = ScoreRequest("m", tuple(range(95)), (1, 2))
    replica, added = _Instant(), list[float]()
    with InferencePool(replicas=1) as pool:
        pool.register("m", lambda _: replica)
        for _ in range(calls):
            start = perf_counter()
            pool.submit(request).result()
            middle = perf_counter()
            replica.score([request])
            added.append(2 * middle - start - perf_counter())
    return {"p50": statistics.median(added) * 1e3, "p95": p95(added) * 1e3}


async def overload(bench: Bench, *, rate: float, seconds: float, timeout_s: float, seed: int = 0) -> dict[str, float]:
    """Ask ``rate`` times a second for so long; return what became of it, and how soon the pool is itself again."""
    draw, ends, answered, refused = random.Random(seed), Counter[str](), list[float](), list[float]()
    async with _packed_pool(bench, replicas=1) as pool:

        async def one(index: int) -> None:
            start = perf_counter()
            try:
                future = pool.submit(_distinct(bench, index), timeout_s=timeout_s)
            except PoolOverloaded:
                refused.append(perf_counter() - start)
                ends["refused"] += 1
                return
            try:
                await asyncio.wrap_future(future)
                answered.append(perf_counter() - start)
                ends["answered"] += 1
            except GuardianTimeout:
                ends["expired"] += 1

        begin, tasks = perf_counter(), list[asyncio.Task[None]]()
        while (now := perf_counter() - begin) < seconds:
            tasks.append(asyncio.create_task(one(len(tasks))))
            await asyncio.sleep(max(0.0, draw.expovariate(rate) - (perf_counter() - begin - now)))
        await asyncio.gather(*tasks)
        after = perf_counter()
        await asyncio.wrap_future(pool.submit(_distinct(bench, len(tasks))))
        recovery_s = perf_counter() - after
    p99 = statistics.quantiles(answered, n=100)[-1] if len(answered) > 1 else 0.0
    return {
        "asked": float(len(tasks)),
        **{how: float(ends[how]) for how in ("answered", "refused", "expired")},
        "answered_p99_s": p99,
        "refused_max_ms": max(refused, default=0.0) * 1e3,
        "recovery_s": recovery_s,
    }


def _distinct(bench: Bench, index: int) -> ScoreRequest:
    """Return a request that no other in flight is equal to, nor begins like: none is coalesced or half computed."""
    count, template = len(bench.load.prompts), bench.load.request(0).prefix_len
    prompt = bench.load.prompts[index % count]
    prompt = (*prompt[:template], 100 + index // count % 1000, *prompt[template:])
    return ScoreRequest("m", prompt, bench.load.label_ids, prefix_len=template)


def _packed_pool(bench: Bench, *, replicas: int) -> InferencePool:
    engine, kept = PackedEngine(bench.model), KeptRows(max_bytes=1 << 30)

    def build(device: str) -> TorchReplica:
        use_one_thread()
        return TorchReplica(engine=engine, kept=kept)

    pool = InferencePool(replicas=replicas)
    pool.register("m", build)
    return pool
