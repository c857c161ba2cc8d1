"""A server is killed under load: every caller has an answer or a typed error, and service is back when it is.

    guardrail export exported
    python tests/benchmark/remote_killed.py TEXTS.jsonl --base exported --url http://127.0.0.1:8011/v1 \\
        --serve "VLLM_CPU_KVCACHE_SPACE=1 VENV/bin/vllm serve exported --served-model-name guardian --port 8011 ..."

Starts the server itself and kills its whole process group (-9) some seconds after 600 callers have begun to wait. Exits
with 1 if a caller got neither a verdict nor one of the library's errors, or if service did not come back.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx

from guardrail_plugin import Check, Guardian, GuardrailError, InferencePool, Verdict

START_S = 600.0
TRIES = 120


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="JSONL with text")
    parser.add_argument("--serve", required=True, help="shell command that starts the server and stays with it")
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", default="guardian", help="what the server calls it")
    parser.add_argument("--base", required=True, type=Path, help="the exported folder")
    parser.add_argument("--callers", type=int, default=600)
    parser.add_argument("--kill-after", type=float, default=4.0, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=0)
    return asyncio.run(run(parser.parse_args()))


async def run(given: argparse.Namespace) -> int:
    """Start, load, kill, wait, start again."""
    texts = [json.loads(line)["text"] for file in given.files for line in file.read_text("utf-8").splitlines()]
    texts = random.Random(given.seed).sample(texts, given.callers)
    server = start(given)
    try:
        async with InferencePool(on_full="wait") as pool:
            name = f"openai:{given.url}#{given.model}"
            guardian = await asyncio.to_thread(Guardian.load, name, base=given.base, pool=pool)
            tasks = [asyncio.create_task(ask(guardian, text)) for text in texts]
            await asyncio.sleep(given.kill_after)
            stop(server)
            killed = time.monotonic()
            ends = Counter(await asyncio.gather(*tasks))
            print(f"{len(texts)} callers, killed after {given.kill_after:g} s: {dict(ends)}")
            print(f"the last of them ended {time.monotonic() - killed:.2f} s after the kill")
            print(f"while it is down: {await ask(guardian, 'hello')}")
            server = start(given)
            again, end = time.monotonic(), ""
            for _ in range(TRIES):
                end = await ask(guardian, "hello")
                if end == Verdict.__name__:
                    break
                await asyncio.sleep(1.0)
            print(f"{time.monotonic() - again:.1f} s after the server was back: {end}")
    finally:
        stop(server)
    return 0 if ends.total() == len(texts) and end == Verdict.__name__ else 1


async def ask(guardian: Guardian, text: str) -> str:
    """Return what became of one check: the name of the verdict's or of the error's class."""
    try:
        return type(await guardian.acheck(Check(text), timeout_s=60.0)).__name__
    except GuardrailError as error:
        return type(error).__name__


def start(given: argparse.Namespace) -> subprocess.Popen[bytes]:
    """Start the server and wait until it answers."""
    command = ["bash", "-c", given.serve]
    server = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        if answers(given.url):
            return server
        time.sleep(1.0)
    stop(server)
    raise SystemExit("the server did not start")


def answers(url: str) -> bool:
    """Tell whether the server lists its models."""
    try:
        return httpx.get(f"{url}/models", timeout=2.0).is_success
    except httpx.HTTPError:
        return False


def stop(server: subprocess.Popen[bytes]) -> None:
    """Kill the server and everything it has started."""
    try:
        os.killpg(server.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    server.wait()


if __name__ == "__main__":
    sys.exit(main())
