"""Compare a guardian behind an inference server with the same guardian here: verdicts, hazards, risks.

    guardrail export --out exported
    vllm serve exported --dtype float32 --served-model-name guardian --port 8000
    python tests/benchmark/remote_verdicts.py --url http://127.0.0.1:8000/v1 --base exported xstest.jsonl

Draws ``--texts`` rows from the files, asks both, prints how often they agree and the largest difference of a risk.
Exits with 1 where a verdict differs or is missing.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path

from guardrail_plugin import Check, Guardian, InferencePool, Verdict


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="JSONL with text")
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", default="guardian", help="what the server calls it")
    parser.add_argument("--base", required=True, type=Path, help="the exported folder")
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    texts = [json.loads(line)["text"] for file in given.files for line in file.read_text("utf-8").splitlines()]
    checks = [Check(text) for text in random.Random(given.seed).sample(texts, min(given.texts, len(texts)))]
    with InferencePool(on_full="wait") as pool:
        there = Guardian.load(f"openai:{given.url}#{given.model}", base=given.base, pool=pool)
        here = Guardian.load(given.base, pool=pool)
        found = {}
        for name, guardian in (("server", there), ("here", here)):
            started = time.monotonic()
            found[name] = guardian.check_many(checks)
            print(f"{name}: {len(checks)} texts in {time.monotonic() - started:.1f} s")
    both = [
        (one, other)
        for one, other in zip(found["server"], found["here"], strict=True)
        if isinstance(one, Verdict) and isinstance(other, Verdict)
    ]
    same = sum(one.harmful == other.harmful for one, other in both)
    hazards = sum(one.hazard == other.hazard for one, other in both)
    most = max((abs(one.risk - other.risk) for one, other in both), default=float("nan"))
    print(f"{same} of {len(checks)} verdicts and {hazards} hazards alike, largest difference of a risk {most:.2g}")
    return int(same < len(checks))


if __name__ == "__main__":
    sys.exit(main())
