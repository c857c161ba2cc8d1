"""A cascade against each of its guardians alone, on the same texts: share escalated, cost, F1 with intervals.

    python tests/benchmark/cascade.py --second qwen3guard@openai:http://127.0.0.1:8000/v1#guard \
        --out runs/cascade xstest.jsonl openai_moderation.jsonl

Both guardians score every text once (and a second run goes on where the first stopped); every band is then decided from
those scores, which is what the cascade does. ``--live N`` sends N texts through a real cascade as well and compares.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from guardrail_plugin import Guardian, InferencePool, Verdict
from guardrail_plugin.evals.dataset import Dataset, EvalFile, load
from guardrail_plugin.evals.metrics import measure
from guardrail_plugin.evals.score import Score, score
from guardrail_plugin.guardian.protocol import GuardianProtocol

BANDS = ((0.02, 0.98), (0.05, 0.95), (0.1, 0.9), (0.2, 0.8), (0.3, 0.7), (0.4, 0.6))


def cascaded(cheap: Sequence[Score], second: Sequence[Score], band: tuple[float, float]) -> tuple[list[Score], float]:
    """Return what a cascade answers, its cost per row included, and the share that goes on."""
    low, high = band
    unsure = [low <= one.risk < high for one in cheap]
    made = [
        replace(b, seconds=a.seconds + b.seconds) if on else a for a, b, on in zip(cheap, second, unsure, strict=True)
    ]
    return made, float(np.mean(unsure))


def figures(name: str, scores: Sequence[Score], *, escalated: float, groups: Sequence[int]) -> dict[str, object]:
    found = measure(scores, groups=groups)
    shown = {key: [found[key].value, found[key].low, found[key].high] for key in ("f1", "recall", "fpr")}
    cost = float(np.mean([one.seconds for one in scores]))
    return {"name": name, "n": len(scores), "share_escalated": escalated, "seconds_per_text": cost, **shown}


def live(cheap: GuardianProtocol, second: GuardianProtocol, data: Dataset, *, rows: int, expected: list[Score]) -> str:
    """Send some texts through a real cascade; return what it did, and in how many decisions it differs."""
    cascade = Guardian.cascade(cheap, second, band=(0.1, 0.9))
    outcomes = cascade.check_many([row.check for row in data.rows[:rows]])
    differ = sum(
        isinstance(outcome, Verdict) and outcome.harmful != one.harmful
        for outcome, one in zip(outcomes, expected, strict=False)
    )
    stats = cascade.stats()
    return (
        f"live on {stats.checks} texts of {data.name}: {stats.share_escalated:.1%} went on, {stats.failed} failed, "
        f"{stats.cheap_s:.1f} s cheap + {stats.second_s:.1f} s second, {differ} decisions differ from the scores'"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", help="labelled JSONL")
    parser.add_argument("--cheap", help="default: the embedded guardian")
    parser.add_argument(
        "--second", required=True, help="folder, hub id or openai: address; FAMILY@ in front where needed"
    )
    parser.add_argument("--base", help="tokenizer of the second guardian")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="rows per file")
    parser.add_argument("--live", type=int, default=0, metavar="N")
    options = parser.parse_args()
    datasets = [load(EvalFile.parse(file)) for file in options.files]
    if options.limit:
        datasets = [replace(data, rows=data.rows[: options.limit]) for data in datasets]
    with InferencePool(on_full="wait") as pool:
        cheap = Guardian.load(options.cheap, pool=pool)
        second = Guardian.load(options.second, base=options.base, pool=pool)
        a = [score(data, cheap, folder=options.out / "cheap") for data in datasets]
        b = [score(data, second, folder=options.out / "second") for data in datasets]
        if options.live:
            expected, _ = cascaded(a[0], b[0], (0.1, 0.9))
            print(live(cheap, second, datasets[0], rows=options.live, expected=expected))
    ones, twos = ([one for part in parts for one in part] for parts in (a, b))
    groups = [i for i, part in enumerate(a) for _ in part]
    table = [
        figures(f"cheap alone: {cheap.id}", ones, escalated=0.0, groups=groups),
        figures(f"second alone: {second.id}", twos, escalated=1.0, groups=groups),
    ]
    for band in BANDS:
        made, share = cascaded(ones, twos, band)
        table.append(figures(f"cascade {band[0]:g}..{band[1]:g}", made, escalated=share, groups=groups))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "cascade.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    for row in table:
        f1 = row["f1"]
        assert isinstance(f1, list)
        interval = "" if f1[0] is None else f"{f1[0]:.3f} [{f1[1]:.3f}, {f1[2]:.3f}]"
        print(f"{row['name']:<60} {row['share_escalated']:>6.1%} {row['seconds_per_text']:>8.3f} s  F1 {interval}")


if __name__ == "__main__":
    main()
