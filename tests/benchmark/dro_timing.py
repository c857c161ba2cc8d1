"""What one training run costs, with the prefix shared and as a plain loop that runs it again for every query.

    python tests/benchmark/dro_timing.py --anchor runs/dro/anchor.safetensors --adapter examples/half_aligned

Each loop runs in a process of its own. CPU seconds are the figure to compare: other work on the machine does not change
them much. With fewer --steps than 160 the seconds of 160 are the sum of one-time work and steps, by proportion.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from guardrail_plugin import dro
from guardrail_plugin.dro.load import load_chat_model

FULL_STEPS = 160


def main() -> None:
    """Run both loops and print a table."""
    options = _options()
    if options.loop:
        print(json.dumps(run(options)))
        return
    print("| loop | steps | CPU s | wall s | CPU s of 160 steps | peak MiB (after loading) |\n" + "|---" * 6 + "|")
    for loop in ("shared prefix", "plain"):
        command = [sys.executable, __file__, *sys.argv[1:], "--loop", loop]
        made = subprocess.run(command, capture_output=True, text=True, check=True)
        one: dict[str, Any] = json.loads(made.stdout.splitlines()[-1])
        print(
            f"| {loop} | {one['steps']:.0f} | {one['cpu_s']:.0f} | {one['wall_s']:.0f} | {one['full_cpu_s']:.0f} | "
            f"{one['peak_mib']:.0f} ({one['loaded_mib']:.0f}) |",
            flush=True,
        )


def run(options: argparse.Namespace) -> dict[str, float]:
    """Train for some steps in this process."""
    torch.set_num_threads(options.threads)
    model, tokenizer = load_chat_model(adapter=options.adapter, device=options.device, dtype=options.dtype)
    anchor = dro.Anchor.load(options.anchor)
    loaded_mib = _peak_mib()
    per_epoch = -(-len(anchor.queries) // options.batch)
    config = dro.Config(
        batch_size=options.batch, epochs=-(-options.steps // per_epoch), share_prefix=options.loop == "shared prefix"
    )
    began, cpu = time.monotonic(), time.process_time()
    soft = dro.train(model, tokenizer, anchor, init=dro.SAFETY_PROMPTS[options.init], config=config, quiet=True)
    spent, steps = time.process_time() - cpu, soft.info.metrics["steps"]
    return {
        "steps": steps,
        "cpu_s": spent,
        "wall_s": time.monotonic() - began,
        "full_cpu_s": spent * FULL_STEPS / steps,
        "peak_mib": _peak_mib(),
        "loaded_mib": loaded_mib,
    }


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--anchor", type=Path, required=True)
    add("--adapter", type=Path)
    add("--device", default="cpu")
    add("--dtype", default="float32")
    add("--threads", type=int, default=1)
    add("--init", default="default", choices=list(dro.SAFETY_PROMPTS))
    add("--batch", type=int, default=50)
    add("--steps", type=int, default=FULL_STEPS)
    add("--loop", choices=["shared prefix", "plain"], help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
