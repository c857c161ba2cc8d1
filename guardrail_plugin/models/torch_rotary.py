"""Rotary frequencies that transformers chooses anew in every forward pass: pinned to those of short rows."""

from __future__ import annotations

from typing import Any


def pin_frequencies(model: Any) -> int | None:
    """Keep a model's rotary frequencies as they are for short rows, in place. Idempotent.

    Returns the longest row, in tokens, that they are the model's own for; ``None``: they are for all.

    transformers takes the frequencies of "longrope" (Phi-3) and "dynamic" (NTK) from the largest position of a call. So
    what a row gets would change with the rows beside it, and keys that were kept, or ran in an earlier helping, would
    be turned otherwise than the queries that read them. What scales the attention depends on no length and stays.

    Source: ``dynamic_rope_update`` in transformers 5, which leaves a type alone that it does not know.
    """
    limits = [limit for module in model.modules() for limit in _pin(module)]
    return min(limits, default=None)


def _pin(module: Any) -> list[int]:
    """Pin one module's frequencies, where it has such; return the longest rows that they are right for."""
    kinds = getattr(module, "rope_type", None)
    rope = getattr(getattr(module, "config", None), "rope_parameters", None)
    if kinds is None or not rope:
        return []
    per_layer = isinstance(kinds, dict)  # one set of frequencies per type of layer, as in Gemma 3
    settings: dict[str, Any] = {f"{layer}_": rope.get(layer) or {} for layer in kinds} if per_layer else {"": rope}
    limits: dict[str, int] = {}
    for prefix, one in settings.items():
        limit = _longest_short_row(one, module.config)
        original = getattr(module, f"{prefix}original_inv_freq", None)
        if limit is not None and original is not None:
            device = getattr(module, f"{prefix}inv_freq").device
            setattr(module, f"{prefix}inv_freq", original.to(device).clone())
            limits[prefix] = limit
    if per_layer:
        module.rope_type = {layer: "default" if f"{layer}_" in limits else kind for layer, kind in kinds.items()}
    elif limits:
        module.rope_type = "default"
    return list(limits.values())


def _longest_short_row(rope: Any, config: Any) -> int | None:
    """Return up to which length a row's frequencies are the first ones, by the model's configuration."""
    kind = str(rope.get("rope_type"))
    if kind == "longrope":
        return int(rope["original_max_position_embeddings"])
    return int(config.max_position_embeddings) if "dynamic" in kind else None
