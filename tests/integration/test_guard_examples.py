"""The examples that need a hub or a server say so and end well where there is none."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from langchain_core.runnables import RunnableLambda

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


async def test_a_worker_outlives_its_providers_error() -> None:
    sys.path.insert(0, str(EXAMPLES))
    try:
        from queue_worker import Job, work
    finally:
        sys.path.remove(str(EXAMPLES))

    def answer(text: str) -> str:
        if text == "down":
            raise ConnectionError("the provider is down")
        return text

    queue: asyncio.Queue[Job] = asyncio.Queue()
    worker = asyncio.create_task(work(queue, RunnableLambda(answer)))
    jobs = [Job("down"), Job("up")]
    for job in jobs:
        queue.put_nowait(job)
    await asyncio.wait_for(queue.join(), 20)
    worker.cancel()
    assert isinstance(jobs[0].answer.exception(), ConnectionError)
    assert jobs[1].answer.result() == "up"
