"""Servers in processes of their own, for the gateway's benchmarks."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from starlette.requests import Request

from guardrail_gateway.testing import Script, ScriptedUpstream, serving

_START_S = 120.0


class Forgetful(ScriptedUpstream):
    """Keeps nothing of what it is asked, so that its own memory stays what it is."""

    async def _read(self, request: Request) -> tuple[dict[str, Any], Script]:
        told = await super()._read(request)
        self.bodies.clear()
        self.headers.clear()
        return told


def run_upstream(pipe: Connection, words: str) -> None:
    """Serve answers of so many words until the pipe says stop."""
    script = Script(deltas=["word " if n % 12 else "ends here. " for n in range(1, int(words) + 1)])
    with serving(Forgetful(script).app) as url:
        pipe.send(url)
        pipe.recv()


@contextmanager
def process(target: Callable[..., None], *arguments: str) -> Iterator[tuple[str, int]]:
    """Run a server in a process of its own. Yields its URL and process id."""
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe()
    child = context.Process(target=target, args=(its, *arguments))
    child.start()
    try:
        if not mine.poll(_START_S):
            raise RuntimeError("a server did not start")
        yield mine.recv(), child.pid or 0
    finally:
        mine.send("stop")
        child.join(30)
        if child.is_alive():
            child.kill()
