"""Choose the engine for a model: the fastest one that gives the model's own numbers, shown on a probe at load."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.models.kept import MIN_REUSE, Ids, Prefix
from guardrail_plugin.models.rows import Engine, Rows
from guardrail_plugin.models.torch_generic import GenericEngine
from guardrail_plugin.models.torch_packed import PackedEngine

_log = logging.getLogger(__name__)

MAX_DIFFERENCE = 1e-3
"""Largest difference of a log-probability in float32. Source: 5e-5 seen on SmolLM2-135M."""

MAX_DISTANCE_16_BIT = 0.004
"""Largest squared Hellinger distance of the next-token distributions in 16-bit formats, mean over the probe: 0 where
they are equal, 1 where they have nothing in common. Rounding follows the order of sums there, and the largest
difference of 49,000 log-probabilities tells more of the vocabulary's tail (0.6 for right engines) than of the engine.

Source: SmolLM2-135M and the embedded guardian in bfloat16 on a CPU. Right engines: 0.0006 to 0.0012. Positions one too
high behind a kept prefix: 0.012 and 0.042; one token of a kept prefix another: 0.016 and 0.065; another prompt's
prefix: 0.066 and 0.15; one key of a neighbour's row seen: 0.26 and 0.26; one block's MLP times 1.5: 0.019 and 0.015.
"""

MAX_LOSS_16_BIT = 1.0
"""How much less likely than the model's best token, in nats, an engine's best token may be in 16-bit formats. Source:
0.25 seen on engines that are right, where logits near 30 come in steps of 0.125; 2 to 13 with a wrong mask."""

_EVERYTHING = slice(None)


def choose_engine(model: Any, *, pad_id: int = 0) -> Engine:
    """Return an engine that agrees with the model's plain forward pass.

    Tried in order: packed, generic with kept prefixes, generic. A candidate that disagrees is given up with a warning;
    a model that a candidate does not know in the first place is no warning.

    Raises:
        ConfigError: the model is no decoder-only language model.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        raise ConfigError("a replica needs a decoder-only language model")
    plain = GenericEngine(model, reuses=False, pad_id=pad_id)
    prompts = _probe(model.get_input_embeddings().num_embeddings)
    with torch.inference_mode():
        expected = _from_nothing(plain, prompts)
        exact = model.get_input_embeddings().weight.dtype == torch.float32
        for engine in _candidates(model, pad_id):
            complaint = _complaint(engine, prompts, expected, exact=exact)
            if complaint is None:
                return engine
            _log.warning("%s: the %s engine is not used, it %s", type(model).__name__, engine.name, complaint)
    return plain


def _candidates(model: Any, pad_id: int) -> Iterator[Engine]:
    if PackedEngine.fits(model):
        yield PackedEngine(model)
    generic = GenericEngine(model, pad_id=pad_id)
    if generic.reuses:
        yield generic


def _probe(vocabulary: int) -> list[Ids]:
    """Prompts of different lengths behind one beginning, spread over the vocabulary, and one that is all alone.

    They repeat themselves: a model that looks for what came after the last occurrence minds where exactly that was.
    """
    start = tuple(range(MIN_REUSE + 3))
    alone = tuple(range(50, 55))
    rows = [start + start[:2], start + start[:9], start + start + start[:6], alone + alone]
    return [tuple((i * 7919 + 13) % vocabulary for i in row) for row in rows]


def _from_nothing(plain: Engine, prompts: list[Ids]) -> Tensor:
    """Return the log-probabilities after the prompts and, once more, after one further token: (2B, V)."""
    longer = [(*prompt, prompt[0]) for prompt in prompts]
    return torch.cat([_log_probabilities(_opened(plain, rows, room=0)) for rows in (prompts, longer)])


def _from_kept(engine: Engine, prompts: list[Ids]) -> Tensor:
    """Return the same from a kept beginning, in two helpings of prompt tokens, the further token as a decode step."""
    length = MIN_REUSE + 3
    segment = _opened(engine, [prompts[0][:length]], room=0).segment(0, 0)
    shared = Prefix() if segment is None else Prefix(length, (segment,))
    prefixes = [shared if prompt[:length] == prompts[0][:length] else Prefix() for prompt in prompts]
    rows = engine.open(prompts, prefixes, room=1)
    while not rows.prefill(24):
        pass
    after = _log_probabilities(rows)
    rows.advance([prompt[0] for prompt in prompts])
    return torch.cat([after, _log_probabilities(rows)])


def _opened(engine: Engine, prompts: list[Ids], *, room: int) -> Rows:
    rows = engine.open(prompts, [Prefix()] * len(prompts), room=room)
    rows.prefill()
    return rows


def _log_probabilities(rows: Rows) -> Tensor:
    return rows.logits(_EVERYTHING).log_softmax(-1)


def distance(found: Tensor, expected: Tensor) -> float:
    """Return the mean squared Hellinger distance of distributions, as log-probabilities (N, V)."""
    return float(((found / 2).exp() - (expected / 2).exp()).square().sum(-1).mean() / 2)


def _complaint(engine: Engine, prompts: list[Ids], expected: Tensor, *, exact: bool) -> str | None:
    """Return what is wrong with an engine's numbers, or ``None``."""
    try:
        found = _from_kept(engine, prompts)
    except Exception as error:
        return f"failed on a probe ({type(error).__name__})"
    # Of two tokens that are equally good to within rounding either may be the best one.
    best = expected.gather(-1, found.argmax(-1, keepdim=True))
    loss = float((expected.max(-1, keepdim=True).values - best).max())
    if exact:
        difference = float((found - expected).abs().max())
        if difference <= MAX_DIFFERENCE and loss <= MAX_DIFFERENCE:
            return None
        return f"differs from the model by {difference:.2g} in a log-probability (at most {MAX_DIFFERENCE:g})"
    apart = distance(found, expected)
    if apart <= MAX_DISTANCE_16_BIT and loss <= MAX_LOSS_16_BIT:
        return None
    return (
        f"differs from the model by {apart:.2g} in its distributions (at most {MAX_DISTANCE_16_BIT:g}), its best token "
        f"by {loss:.2g} in log-probability (at most {MAX_LOSS_16_BIT:g})"
    )
