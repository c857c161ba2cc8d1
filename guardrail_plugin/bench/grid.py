"""Throughput of the packed engine against text length and batch, for accelerators: where does the device fill up?"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from guardrail_plugin.bench.contenders import replica_of
from guardrail_plugin.models.torch_engine import choose_engine
from guardrail_plugin.pool import ScoreRequest

LENGTHS = (32, 128, 512, 2048)
BATCHES = (1, 8, 64, 256)
MAX_TOKENS = 262_144


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One length and batch.

    Attributes:
        plain_rps: of the model's own forward pass over the same rows, whole vocabulary at the last position.
        fraction: of the device's matrix product in the model's format, 2 operations per weight and token.
    """

    length: int
    batch: int
    rps: float
    plain_rps: float
    tokens_per_s: float
    fraction: float


def points(
    model: Any, *, lengths: Sequence[int] = LENGTHS, batches: Sequence[int] = BATCHES, repeats: int = 7
) -> Iterator[Point]:
    """Yield one point per length and batch, nothing kept between runs."""
    device = next(model.parameters()).device
    replica = replica_of(choose_engine(model), kept_mb=0)
    body = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name)
    peak = _peak_flops(model)
    rows = model.get_input_embeddings().num_embeddings
    for length in lengths:
        for batch in batches:
            if length * batch > MAX_TOKENS:
                continue
            draw = torch.Generator().manual_seed(length * batch)
            ids = torch.randint(0, rows, (batch, length), generator=draw)
            requests = [ScoreRequest("m", tuple(row), (1, 2)) for row in ids.tolist()]
            ours = _median_s(lambda requests=requests: replica.score(requests), device, repeats)
            there = ids.to(device)
            plain = _median_s(lambda there=there: _plain(model, there), device, repeats)
            yield Point(
                length=length,
                batch=batch,
                rps=batch / ours,
                plain_rps=batch / plain,
                tokens_per_s=batch * length / ours,
                fraction=2.0 * body * batch * length / ours / peak,
            )


@torch.inference_mode()
def _plain(model: Any, ids: torch.Tensor) -> None:
    model(ids, logits_to_keep=1).logits[:, -1, :2].cpu()


def _median_s(work: Any, device: torch.device, repeats: int) -> float:
    work()  # kernels are chosen, graphs captured
    times = []
    for _ in range(repeats):
        _synchronize(device)
        start = perf_counter()
        work()
        _synchronize(device)
        times.append(perf_counter() - start)
    return statistics.median(times)


def _peak_flops(model: Any) -> float:
    """Return the operations per second of a large matrix product on the model's device and in its format."""
    weight = next(model.parameters())
    size = 512 if weight.device.type == "cpu" else 8192
    x = torch.randn(size, size, device=weight.device, dtype=weight.dtype)
    return 2.0 * size**3 / _median_s(lambda: x @ x, weight.device, 12)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
