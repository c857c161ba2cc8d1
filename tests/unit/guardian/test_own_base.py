"""An adapter on a base of the caller's own: other weights, and no revision of another repository."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from guardrail_plugin.assembly import loading, own
from guardrail_plugin.core.hazards import MLCOMMONS
from guardrail_plugin.guardian.format import Layout
from guardrail_plugin.guardian.guardian import Guardian
from guardrail_plugin.guardian.manifest import ADAPTER_FILE, HazardEntry, Manifest
from guardrail_plugin.guardian.tokenizer import FastContentTokenizer
from guardrail_plugin.models.locate import Located
from guardrail_plugin.pool import InferencePool


@pytest.fixture
def adapter(tmp_path: Path, tiny_base: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    Manifest(
        name="tiny",
        base_model="somebody/base",
        base_revision="abc",
        tokenizer_sha256=FastContentTokenizer(tiny_base / "tokenizer.json").sha256,
        vocab_size=259,
        end_id=2,
        token_names=Layout(vocab_size=259, end_id=2).token_names,
        taxonomy=tuple(HazardEntry(code=h.code, name=h.name, definition=h.definition) for h in MLCOMMONS),
    ).write(folder)
    (folder / ADAPTER_FILE).write_bytes(b"weights")
    return folder


def test_two_bases_are_two_models_on_a_pool(adapter: Path, tiny_base: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_base, tmp_path / "other")
    with InferencePool() as pool:
        one, two, again = (Guardian.load(adapter, base=base, pool=pool) for base in (tiny_base, other, tiny_base))
    assert one.id == two.id
    assert one._model_key == again._model_key != two._model_key


@pytest.mark.parametrize(
    ("base", "pin", "revision"),
    [
        (None, None, "abc"),
        ("somebody/base", None, "abc"),
        ("somebody/base", "def", "def"),
        ("another/mirror", None, None),
        ("another/mirror", "def", "def"),
    ],
)
def test_the_manifests_revision_is_asked_of_its_own_repository_alone(
    base: str | None,
    pin: str | None,
    revision: str | None,
    adapter: Path,
    tiny_base: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, str | None]] = []

    def locate(model: str, *, revision: str | None = None, **options: Any) -> Located:
        asked.append((model, revision))
        return Located(model, tiny_base, "hub", revision)

    monkeypatch.setattr(own, "locate", locate)
    with InferencePool() as pool:
        guardian = Guardian.load(adapter, base=base, base_revision=pin, pool=pool)
    assert asked == [(base or "somebody/base", revision)]
    assert guardian.base == (f"{base or 'somebody/base'}@{revision}" if revision else base)


def test_an_adapter_of_the_hub_carries_its_revision(
    adapter: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two revisions may differ in thresholds alone, which the hash of the weights does not show."""
    monkeypatch.setattr(loading, "locate", lambda model, *, revision, **_: Located(model, adapter, "hub", revision))
    with InferencePool() as pool:
        moving, pinned = (
            Guardian.load("somebody/tiny", revision=revision, base=tiny_base, pool=pool) for revision in (None, "v1")
        )
    assert pinned.id == f"{moving.id}@v1"
    assert moving._model_key != pinned._model_key
