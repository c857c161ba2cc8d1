"""How many tokens a batch should have on an accelerator: measured once, when the weights are loaded."""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from time import perf_counter

import torch

from guardrail_plugin.models.kept import Prefix
from guardrail_plugin.models.rows import Engine

_FIRST_TOKENS = 1024
_MOST_TOKENS = 65_536
_ROW_TOKENS = 128
_WORTH = 1.1  # twice the tokens must be at least this much faster per token; beyond that they only make callers wait


def best_batch_tokens(engine: Engine, *, vocabulary: int, clock: Callable[[], float] = perf_counter) -> int:
    """Return the smallest batch, in tokens, that comes near the device's best pace. Doubles until that stops paying.

    On a CPU nothing is measured (seconds of work for what is known): the pool's default is its best size.
    """
    best, pace = _FIRST_TOKENS, 0.0
    sizes = (_FIRST_TOKENS << step for step in range(32))
    for tokens in takewhile(lambda size: size <= _MOST_TOKENS, sizes):
        try:
            _seconds(engine, tokens, vocabulary, clock)  # the first run of a size also picks its kernels
            found = tokens / max(_seconds(engine, tokens, vocabulary, clock), 1e-9)
        except torch.OutOfMemoryError:
            break
        if found < _WORTH * pace:
            break
        best, pace = tokens, found
    return best


@torch.inference_mode()
def _seconds(engine: Engine, tokens: int, vocabulary: int, clock: Callable[[], float]) -> float:
    prompts = [tuple((row + 31 * i) % vocabulary for i in range(_ROW_TOKENS)) for row in range(tokens // _ROW_TOKENS)]
    start = clock()
    rows = engine.open(prompts, [Prefix()] * len(prompts))
    rows.prefill()
    rows.logits(slice(2)).cpu()  # waits for the device
    return clock() - start
