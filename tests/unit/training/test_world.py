"""Several processes: each on a device of its own, with the messages that its device can send."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from guardrail_plugin.training import world  # noqa: E402


@pytest.mark.parametrize(
    ("best", "gpus", "place", "device"),
    [
        ("cpu", 0, "3", "cpu"),
        ("cuda:0", 4, None, "cuda:0"),
        ("cuda:0", 4, "3", "cuda:3"),
        ("cuda:0", 1, "3", "cuda:0"),  # a launcher that shows each process its own GPU alone
    ],
)
def test_every_process_has_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, best: str, gpus: int, place: str | None, device: str
) -> None:
    monkeypatch.setattr(world, "default_device", lambda: best)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if place is not None:
        monkeypatch.setenv("LOCAL_RANK", place)
    assert world.own_device() == device


@pytest.mark.parametrize(("device", "backend"), [("cuda:1", "nccl"), ("cpu", "gloo")])
def test_processes_talk_as_their_device_does(monkeypatch: pytest.MonkeyPatch, device: str, backend: str) -> None:
    """Also on a machine with a GPU that the run does not use."""
    said: list[Any] = []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", said.append)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.distributed, "init_process_group", said.append)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert world.join_world(device) == (1, 2)
    assert said == ([device] if backend == "nccl" else []) + [backend]


def test_one_process_joins_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert world.join_world("cpu") == (0, 1)
