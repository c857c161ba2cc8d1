"""The examples that need a hub or a server say so and end well where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("openai")

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_qwen3guard_is_skipped_with_a_reason_where_the_hub_is_out_of_reach(embedded_base: Path, tmp_path: Path) -> None:
    nowhere = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
    done = run("qwen3guard.py", **nowhere)
    assert done.startswith("skipped: no weights for 'Qwen/Qwen3Guard-Gen-0.6B'")


def test_a_remote_guard_is_skipped_with_a_reason_where_no_server_answers() -> None:
    assert run("remote_guard.py", "http://127.0.0.1:9/v1").startswith("skipped: no server at http://127.0.0.1:9/v1")


def run(example: str, *arguments: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, EXAMPLES / example, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    ).stdout
