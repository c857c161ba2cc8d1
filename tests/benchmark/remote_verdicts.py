"""Compare a guardian behind an inference server, or on a Ray cluster, with the same one here: verdicts, hazards, risks.

    guardrail export --out exported
    vllm serve exported --dtype float32 --served-model-name guardian --port 8000
    python tests/benchmark/remote_verdicts.py --url http://127.0.0.1:8000/v1 --base exported xstest.jsonl

    ray start --head --node-ip-address 127.0.0.2 --port 6390 --num-cpus 1
    ray start --address 127.0.0.2:6390 --node-ip-address 127.0.0.3 --num-cpus 1
    python tests/benchmark/remote_verdicts.py --ray 127.0.0.2:6390 xstest.jsonl

On Ray the embedded guardian runs on a fleet of one host per node that the address leads to. Draws ``--texts`` rows
from the files, asks both, prints how often they agree and the largest difference of a risk. Exits with 1 where a
verdict differs or is missing.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from guardrail_plugin import Check, Guardian, InferencePool, Verdict


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="JSONL with text")
    parser.add_argument("--url", help="of a server")
    parser.add_argument("--model", default="guardian", help="what the server calls it")
    parser.add_argument("--base", type=Path, help="the exported folder that it serves")
    parser.add_argument("--ray", help="address of a cluster instead")
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    texts = [json.loads(line)["text"] for file in given.files for line in file.read_text("utf-8").splitlines()]
    checks = [Check(text) for text in random.Random(given.seed).sample(texts, min(given.texts, len(texts)))]
    if bool(given.ray) == bool(given.url and given.base):
        parser.error("give --url and --base, or --ray")
    with ExitStack() as stack:
        pool = stack.enter_context(InferencePool(on_full="wait"))
        if given.ray:
            there = Guardian.load(pool=stack.enter_context(fleet_at(given.ray)))
        else:
            there = Guardian.load(f"openai:{given.url}#{given.model}", base=given.base, pool=pool)
        here = Guardian.load(given.base, pool=pool)
        found = {}
        for name, guardian in (("there", there), ("here", here)):
            started = time.monotonic()
            found[name] = guardian.check_many(checks)
            print(f"{name}: {len(checks)} texts in {time.monotonic() - started:.1f} s")
    both = [
        (one, other)
        for one, other in zip(found["there"], found["here"], strict=True)
        if isinstance(one, Verdict) and isinstance(other, Verdict)
    ]
    same = sum(one.harmful == other.harmful for one, other in both)
    hazards = sum(one.hazard == other.hazard for one, other in both)
    most = max((abs(one.risk - other.risk) for one, other in both), default=float("nan"))
    print(f"{same} of {len(checks)} verdicts and {hazards} hazards alike, largest difference of a risk {most:.2g}")
    return int(same < len(checks))


@contextmanager
def fleet_at(address: str) -> Iterator[InferencePool]:
    """Run one host per node of a cluster, and yield a pool that asks them."""
    import ray
    from ray import serve

    from guardrail_ray import RayPool, fleet

    ray.init(address=address, _node_ip_address=address.partition(":")[0], log_to_driver=False, logging_level="ERROR")
    nodes = len([node for node in ray.nodes() if node["Alive"]])
    serve.start(proxy_location="Disabled")
    serve.run(fleet(min_hosts=nodes, max_hosts=nodes), name="guardrail", route_prefix=None)
    print(f"{nodes} hosts on {nodes} nodes")
    try:
        with RayPool(on_full="wait") as pool:
            yield pool
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    sys.exit(main())
