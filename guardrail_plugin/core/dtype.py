"""The number format that a model's weights are held in and computed with."""

from __future__ import annotations

from typing import Literal, TypeAlias

from guardrail_plugin.core.errors import ConfigError, did_you_mean

Dtype: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
"""``"auto"``: bfloat16 on CUDA, float32 elsewhere, so that a CPU gives the same numbers as any other."""

DTYPES: tuple[Dtype, ...] = ("auto", "float32", "bfloat16", "float16")


def dtype_named(name: str) -> Dtype:
    """Return the number format of this name.

    Raises:
        ConfigError: there is none.
    """
    for dtype in DTYPES:
        if dtype == name:
            return dtype
    raise ConfigError(f"dtype={name!r} is none of {', '.join(DTYPES)}{did_you_mean(str(name), DTYPES)}")


def keyed(key: str, dtype: Dtype) -> str:
    """Return a model's key on a pool with its number format: weights in two formats are two models."""
    return key if dtype == "auto" else f"{key}+{dtype}"
