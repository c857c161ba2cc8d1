"""The benchmark's requests, its yardsticks (naive transformers, the machine's matmul peak) and its clients."""

from __future__ import annotations

import asyncio
import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter, process_time, thread_time
from typing import Any

import torch

from guardrail_plugin.pool import InferencePool, ScoreRequest

TEMPLATE_TOKENS = 65
SUFFIX_TOKENS = 6
QUERY_TOKENS = (8, 60)
_WORDS = (
    "how can I make a quick plan for our garden with water and light so that nobody in the house gets hurt by old "
    "paint or sharp tools please tell me about history music law medicine money and the best way to write code that "
    "opens files reads tables sends mail finds errors explains chemistry breaks locks hides tracks or buys cheap food"
).split()
_TASK = "Read the message below and say with one word which kind of harm it could do, or that it is safe. "
_LABELS = (" safe", " violence", " theft", " hate", " drugs", " fraud", " weapons", " privacy", " suicide", " sex")


@dataclass(frozen=True, slots=True)
class Load:
    """A workload: prompts of template + query + suffix, and what they cost.

    Attributes:
        new_flops: floating-point operations of one prompt's body when the template is cached, mean over prompts.
    """

    prompts: list[tuple[int, ...]]
    label_ids: tuple[int, ...]
    new_flops: float

    def request(self, index: int) -> ScoreRequest:
        """Return the request of a prompt."""
        return ScoreRequest("m", self.prompts[index], self.label_ids, prefix_len=TEMPLATE_TOKENS)


def make_load(tokenizer: Any, model: Any, *, requests: int, seed: int) -> Load:
    """Draw the prompts."""
    draw = random.Random(seed)

    def ids(text: str, length: int) -> tuple[int, ...]:
        found = tokenizer.encode(text, add_special_tokens=False)
        return tuple((found * (length // len(found) + 1))[:length])

    template, suffix = ids(_TASK, TEMPLATE_TOKENS), ids("\nKind of harm:", SUFFIX_TOKENS)
    queries = [ids(" ".join(draw.choices(_WORDS, k=80)), _length(draw)) for _ in range(requests)]
    labels = tuple(dict.fromkeys(tokenizer.encode(label, add_special_tokens=False)[0] for label in _LABELS))
    body = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name)
    mean_tokens = statistics.mean(len(query) for query in queries) + SUFFIX_TOKENS
    return Load([(*template, *query, *suffix) for query in queries], labels, 2.0 * body * mean_tokens)


def _length(draw: random.Random) -> int:
    """Return a query length, short ones more often, as people write: log-uniform, mean 26 tokens."""
    least, most = QUERY_TOKENS
    return round(math.exp(draw.uniform(math.log(least), math.log(most))))


@torch.inference_mode()
def naive_verdict(model: Any, prompt: Sequence[int], label_ids: Sequence[int]) -> int:
    """What a first script does: one prompt at a time, the whole vocabulary at every position."""
    logits = model(torch.tensor([prompt])).logits
    return int(logits[0, -1, list(label_ids)].argmax())


def peak_gflops(model: Any) -> float:
    """Return what one thread reaches on the model's largest matrix at 512 tokens. Units: 1e9 operations per second.

    Thread time, not wall time: what others run on the machine must not make the peak look low.
    """
    weight = model.model.layers[0].mlp.down_proj.weight
    x = torch.randn(512, weight.shape[1])
    times = []
    with torch.inference_mode():
        for _ in range(12):
            start = thread_time()
            torch.nn.functional.linear(x, weight)
            times.append(thread_time() - start)
    return 2 * x.shape[0] * weight.numel() / statistics.median(times) / 1e9


def cpu_seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Return the process time and the wall time of some work."""
    wall, cpu = perf_counter(), process_time()
    work()
    return process_time() - cpu, perf_counter() - wall


async def closed_loop(
    pool: InferencePool, requests: Sequence[ScoreRequest], *, concurrency: int
) -> tuple[list[int], list[float]]:
    """Keep so many requests in flight until all are answered; return the best labels and the latencies in seconds."""
    best = [-1] * len(requests)
    latencies = [0.0] * len(requests)
    waiting = iter(enumerate(requests))

    async def client() -> None:
        for index, request in waiting:
            start = perf_counter()
            result = await asyncio.wrap_future(pool.submit(request))
            latencies[index] = perf_counter() - start
            best[index] = max(range(len(result.logprobs)), key=result.logprobs.__getitem__)

    await asyncio.gather(*(client() for _ in range(concurrency)))
    return best, latencies


def p95(values: Sequence[float]) -> float:
    """Return the 95th percentile."""
    return statistics.quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else values[0]
