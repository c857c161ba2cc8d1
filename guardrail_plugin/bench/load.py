"""The benchmark's requests, its yardsticks (naive transformers, the machine's matmul peak) and its clients."""

from __future__ import annotations

import asyncio
import os
import random
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time, thread_time
from typing import Any, TypeAlias

import torch

from guardrail_plugin.pool import ScoreRequest

Ask: TypeAlias = Callable[[ScoreRequest], Awaitable[int]]
"""One verdict: the index of the likeliest label."""

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

    def other(self, index: int) -> ScoreRequest:
        """Return a request that has only the template in common with all of ``request``'s."""
        prompt = self.prompts[index]
        tail = (*prompt[: TEMPLATE_TOKENS - 1 : -1], self.label_ids[0])
        return ScoreRequest("m", (*prompt[:TEMPLATE_TOKENS], *tail), self.label_ids, prefix_len=TEMPLATE_TOKENS)


def make_load(tokenizer: Any, model: Any, *, requests: int, seed: int) -> Load:
    """Draw the prompts."""
    draw = random.Random(seed)

    def ids(text: str, length: int) -> tuple[int, ...]:
        found = tokenizer.encode(text, add_special_tokens=False)
        return tuple((found * (length // len(found) + 1))[:length])

    template, suffix = ids(_TASK, TEMPLATE_TOKENS), ids("\nKind of harm:", SUFFIX_TOKENS)
    queries = [ids(" ".join(draw.choices(_WORDS, k=80)), draw.randint(*QUERY_TOKENS)) for _ in range(requests)]
    labels = tuple(dict.fromkeys(tokenizer.encode(label, add_special_tokens=False)[0] for label in _LABELS))
    body = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name)
    mean_tokens = statistics.mean(len(query) for query in queries) + SUFFIX_TOKENS
    return Load([(*template, *query, *suffix) for query in queries], labels, 2.0 * body * mean_tokens)


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
    x = torch.randn(512, weight.shape[1], dtype=weight.dtype)
    times = []
    with torch.inference_mode():
        for _ in range(12):
            start = thread_time()
            torch.nn.functional.linear(x, weight)
            times.append(thread_time() - start)
    return float(2 * x.shape[0] * weight.numel() / statistics.median(times) / 1e9)


def tree_cpu_s() -> float:
    """Return the processor seconds of this process and of everything it has started, where the system tells (Linux)."""
    stats = {int(path.parent.name): path for path in Path("/proc").glob("[0-9]*/stat")}
    if not stats:
        return process_time()
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    ticks = os.sysconf("SC_CLK_TCK")
    for pid, path in stats.items():
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        parents[pid] = int(fields[1])
        seconds[pid] = sum(map(int, fields[11:15])) / ticks  # own time, and that of children that have ended
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(seconds.get(pid, 0.0) for pid in ours)


def cpu_seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Return the processor seconds of this process and its children, and the wall time, of some work."""
    wall, cpu = perf_counter(), tree_cpu_s()
    work()
    return tree_cpu_s() - cpu, perf_counter() - wall


async def closed_loop(ask: Ask, requests: Sequence[ScoreRequest], *, concurrency: int) -> tuple[list[int], list[float]]:
    """Keep so many requests in flight until all are answered; return the best labels and the latencies in seconds."""
    best = [-1] * len(requests)
    latencies = [0.0] * len(requests)
    waiting = iter(enumerate(requests))

    async def client() -> None:
        for index, request in waiting:
            start = perf_counter()
            best[index] = await ask(request)
            latencies[index] = perf_counter() - start

    await asyncio.gather(*(client() for _ in range(concurrency)))
    return best, latencies


def p95(values: Sequence[float]) -> float:
    """Return the 95th percentile."""
    return statistics.quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else values[0]
