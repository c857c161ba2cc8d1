"""One process among several: ``torchrun`` starts them, each trains on its share of the batches."""

from __future__ import annotations

import os

import torch

from guardrail_plugin.models.load import default_device


def own_device() -> str:
    """Return the best device that there is; under torchrun every process of a machine has a GPU of its own."""
    device = default_device()
    if not device.startswith("cuda"):
        return device
    # Where a launcher shows each process its own GPU alone, that is the first of one.
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def join_world(device: str) -> tuple[int, int]:
    """Return (rank, number of processes), joining torchrun's process group when started by it.

    Args:
        device: that this process trains on.
    """
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:  # torchrun's own variables
        return 0, 1
    if not torch.distributed.is_initialized():
        on_gpu = torch.device(device).type == "cuda"
        if on_gpu:
            torch.cuda.set_device(device)  # NCCL's barrier would take the first one in every process
        torch.distributed.init_process_group("nccl" if on_gpu else "gloo")
    return torch.distributed.get_rank(), torch.distributed.get_world_size()
