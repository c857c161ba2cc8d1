"""An adapter of a small rank as the beginning of one of a larger rank."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.guardian.manifest import ADAPTER_FILE

ADAPTER_CONFIG_FILE = "adapter_config.json"


def ranks_of(folder: Path) -> tuple[int, int]:
    """Return LoRA rank and alpha of an adapter.

    Raises:
        ConfigError: the folder holds no adapter: its guardian is merged into its base, or of another family.
    """
    file = folder / ADAPTER_CONFIG_FILE
    if not file.is_file():
        raise ConfigError(
            f"{folder} holds no {ADAPTER_CONFIG_FILE}: only an adapter in the library's own format goes on"
        )
    began = json.loads(file.read_text(encoding="utf-8"))
    return int(began["r"]), int(began["lora_alpha"])


def load_start(folder: Path, fresh: Mapping[str, Tensor], *, rank: int, alpha: int) -> dict[str, Tensor]:
    """Read an adapter in float32, with as many ranks as ``fresh`` has and the same function as in its folder.

    LoRA adds (alpha / rank) B A to a weight, with A (rank, in) and B (out, rank). Added rows of A stay as ``fresh`` has
    them and added columns of B stay zero, so they say nothing yet and can learn at once.

    Args:
        fresh: the state of a newly made adapter of the wanted rank, by name.
        rank, alpha: of the wanted adapter.

    Raises:
        ConfigError: the folder's adapter has more ranks than wanted, or other layers.
    """
    began_rank, began_alpha = ranks_of(folder)
    if began_rank > rank:
        raise ConfigError(
            f"the guardian to go on from has lora_rank {began_rank}, this recipe {rank}: give at least as many"
        )
    state = load_file(folder / ADAPTER_FILE)
    if state.keys() != fresh.keys():
        raise ConfigError(
            f"{folder} adapts other layers than this recipe's base has: was it trained from another base?"
        )
    scale = (began_alpha / began_rank) / (alpha / rank)
    return {name: _placed(tensor.float(), fresh[name], name, scale) for name, tensor in state.items()}


def _placed(tensor: Tensor, fresh: Tensor, name: str, scale: float) -> Tensor:
    wide = fresh.detach().cpu().float().clone()
    if "lora_A" in name:
        wide[: tensor.shape[0]] = tensor
    elif "lora_B" in name:
        wide[:, : tensor.shape[1]] = tensor * scale
    else:
        wide.copy_(tensor)
    return wide
