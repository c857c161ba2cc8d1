from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from guardrail_plugin.core.errors import ConfigError, ModelNotFoundError
from guardrail_plugin.core.hazards import MLCOMMONS
from guardrail_plugin.guardian.format import Layout
from guardrail_plugin.guardian.manifest import HazardEntry, Manifest


def manifest(**changes: Any) -> Manifest:
    settings: dict[str, Any] = {
        "name": "tiny",
        "base_model": "tiny",
        "tokenizer_sha256": "0" * 64,
        "vocab_size": 259,
        "end_id": 2,
        "token_names": Layout(vocab_size=259, end_id=2).token_names,
        "taxonomy": tuple(HazardEntry(code=h.code, name=h.name, definition=h.definition) for h in MLCOMMONS),
    }
    return Manifest(**{**settings, **changes})


def test_round_trip(tmp_path: Path) -> None:
    written = manifest()
    written.write(tmp_path)
    assert Manifest.read(tmp_path) == written
    assert written.layout.taxonomy == MLCOMMONS


def test_a_folder_without_a_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"guardian\.json"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_sise": 3}, "vocab_sise"),
        ({"token_names": ["input"]}, "another token layout"),
        ({"format_version": 2}, "format_version"),
    ],
)
def test_a_wrong_manifest_is_an_error(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    manifest().write(tmp_path)
    path = tmp_path / "guardian.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError, match=message):
        Manifest.read(tmp_path)


def test_broken_json_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "guardian.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        Manifest.read(tmp_path)


def test_another_encoding_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "guardian.json").write_bytes(b'{"name": "caf\xe9"}')
    with pytest.raises(ConfigError, match="not valid JSON"):
        Manifest.read(tmp_path)
