"""The DRO experiment: what no prompt, text prompts, vanilla prompt tuning, DRO and its ablations do to a model.

    python tests/benchmark/dro_experiment.py --queries FIXTURES --references alpaca_eval.jsonl --out runs/dro \\
        --adapter examples/half_aligned --seeds 42 43 44 --rows all

FIXTURES holds DRO's query files: data_custom.txt, data_harmless_custom.txt, data_MaliciousInstruct.txt,
data_advbench.txt, data_harmless_testset.txt. Whatever is finished in --out is not run again, and what was begun goes
on: stop it when you like. Writes report.json and report.md after every row. Seeds are those of training and of the
sampled responses; the anchor is fitted once. With --judge, the guardian is asked about every response that does not
refuse (from the kept responses; nothing is drawn again), and a query is complied with only if it calls one unsafe.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from guardrail_plugin import Guardian, InferencePool, dro
from guardrail_plugin.dro.evaluate import Judge
from guardrail_plugin.dro.load import load_chat_model, read_drawn, read_queries, read_references
from guardrail_plugin.evals.intervals import wilson

TEXTS = {"none": None, **{name: name for name in dro.SAFETY_PROMPTS}}
LOSSES: dict[str, dict[str, float]] = {
    "dro": {},
    "dro-no-refusal": {"refusal": 0.0},
    "dro-no-harmfulness": {"beta": 0.0},
    "dro-no-utility": {"gamma": 0.0},
    "dro-balanced": {"beta": 1.0, "gamma": 0.1},  # both heads alike, and a hundred times the paper's weight on L_U
}
ESSENTIAL = ["none", "default", "dro", "vpt"]
ROWS = ["none", "default", "mistral", "short", "vpt", *LOSSES]
HARMFUL = {"MaliciousInstruct": "data_MaliciousInstruct.txt", "AdvBench": "data_advbench.txt"}
HARMLESS = {"held-out harmless": "data_harmless_testset.txt"}


def main() -> None:
    """Run what is missing and print the table."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    run = Experiment(options)
    with run.judge() as judge:
        for seed in options.seeds:
            for row in ROWS if options.rows == ["all"] else options.rows:
                run.measure(row, seed, judge)
                report = run.report()
                (options.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
                (options.out / "report.md").write_text(as_markdown(report))
    print(as_markdown(run.report()))


class Experiment:
    """One folder of results."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.out: Path = options.out
        self.model, self.tokenizer = load_chat_model(
            options.model, adapter=options.adapter, device=options.device, dtype=options.dtype
        )
        self.harmful = {name: self._queries(file, options.limit) for name, file in HARMFUL.items()}
        self.harmless = {name: self._queries(file, options.limit) for name, file in HARMLESS.items()}
        pairs = read_references(options.references)[: options.limit] if options.references else []
        self.references = [(query, answer[: options.reference_chars]) for query, answer in pairs]
        self._anchor: dro.Anchor | None = None

    @property
    def anchor(self) -> dro.Anchor:
        """The anchor, fitted when first needed."""
        path = self.out / "anchor.safetensors"
        if self._anchor is None and path.is_file():
            self._anchor = dro.Anchor.load(path)
        if self._anchor is None:
            sampling = dro.Sampling(samples=self.options.anchor_samples, max_new_tokens=self.options.anchor_tokens)
            harmful, harmless = (self._queries(name) for name in ("data_custom.txt", "data_harmless_custom.txt"))
            self._anchor = dro.fit_anchor(
                self.model,
                self.tokenizer,
                harmful,
                harmless,
                safety_prompts=list(dro.SAFETY_PROMPTS),
                config=dro.AnchorConfig(sampling=sampling),
                journal=dro.Journal(self.out / "anchor.drawn.jsonl"),
            )
            self._anchor.save(path)
        return self._anchor

    @contextmanager
    def judge(self) -> Iterator[Judge | None]:
        """Ask the guardian, where that is wanted."""
        if not self.options.judge:
            yield None
            return
        with InferencePool() as pool:
            yield dro.guardian_judge(Guardian.load(pool=pool))

    def measure(self, row: str, seed: int, judge: Judge | None) -> None:
        """Evaluate one prompt, trained first where it is to be trained."""
        path = self._result(row, seed)
        if path.is_file():
            return
        print(f"== {row}, seed {seed}", flush=True)
        prompt = dro.SAFETY_PROMPTS.get(row) if row in TEXTS else self.trained(row, seed)
        k, tokens = self.options.k, self.options.tokens
        result = dro.evaluate(
            self.model,
            self.tokenizer,
            prompt=prompt,
            harmful=self.harmful,
            harmless=self.harmless,
            references=self.references,
            judge=judge,
            config=dro.EvaluationConfig(
                drawn=k,
                kept=k,
                harmful_tokens=tokens,
                harmless_tokens=tokens,
                min_lines=self.options.min_lines,
                rows=self.options.rows_at_once,
                seed=seed,
            ),
            journal=dro.Journal(self.out / f"{row}.s{seed}.drawn.jsonl"),
        )
        path.write_text(json.dumps({"row": row, "seed": seed, **result.as_dict()}) + "\n")

    def trained(self, row: str, seed: int) -> dro.SoftPrompt:
        """Return a soft prompt, trained when first needed."""
        path = self.out / f"{row}.s{seed}.soft.safetensors"
        if path.is_file():
            return dro.SoftPrompt.load(path)
        options, anchor = self.options, self.anchor
        config = dro.Config(seed=seed, batch_size=options.batch, epochs=options.epochs, **LOSSES.get(row, {}))
        common: dict[str, Any] = {
            "init": dro.SAFETY_PROMPTS[options.init],
            "config": config,
            "checkpoint": self.out / f"{row}.s{seed}.checkpoint",
        }
        began, cpu = time.monotonic(), time.process_time()
        if row == "vpt":
            soft = dro.train_vanilla(self.model, self.tokenizer, self._answers(anchor), **common)
        else:
            soft = dro.train(self.model, self.tokenizer, anchor, **common)
        soft.save(path)
        spent = {
            "steps": soft.info.metrics["steps"],
            "wall_s": time.monotonic() - began,
            "cpu_s": time.process_time() - cpu,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        (self.out / f"{row}.s{seed}.training.json").write_text(json.dumps(spent) + "\n")
        return soft

    def report(self) -> dict[str, Any]:
        """Pool what is finished over the seeds."""
        pattern = "*.judged.json" if self.options.judge else "*.result.json"
        found = [json.loads(path.read_text()) for path in sorted(self.out.glob(pattern))]
        baseline = [one["reference_losses"] for one in found if one["row"] == "none"]
        rows = []
        for row in ROWS:
            runs = [one for one in found if one["row"] == row]
            if runs:
                rows.append(pooled(row, runs, baseline[0] if baseline else None))
        settings = {name: str(value) for name, value in vars(self.options).items()}
        anchor = self.anchor.report() if (self.out / "anchor.safetensors").is_file() else None
        return {"settings": settings, "model": self.model.name_or_path, "anchor": anchor, "rows": rows}

    def _answers(self, anchor: dro.Anchor) -> list[dro.Answer]:
        drawn = read_drawn(self.out / "anchor.drawn.jsonl")
        kinds = ((anchor.harmful, True), (anchor.harmless, False))
        return [a for queries, bad in kinds for a in dro.answers_from({q: drawn[q] for q in queries}, harmful=bad)]

    def _queries(self, name: str, limit: int | None = None) -> list[str]:
        return read_queries(self.options.queries / name)[:limit]

    def _result(self, row: str, seed: int) -> Path:
        return self.out / f"{row}.s{seed}.{'judged' if self.options.judge else 'result'}.json"


def pooled(row: str, runs: Sequence[dict[str, Any]], baseline: Sequence[Sequence[float]] | None) -> dict[str, Any]:
    """Return one row of the table: per set hits, n and Wilson interval over all seeds; the perplexity's change."""
    sets: dict[str, dict[str, Any]] = {}
    for name in [*HARMFUL, *HARMLESS]:
        own = [one for run in runs for one in run["sets"] if one["name"] == name]
        hits, n = sum(one["hits"] for one in own), sum(one["queries"] for one in own)
        refused, samples = (sum(one[key] for one in own) for key in ("refused_samples", "samples"))
        sets[name] = {"hits": hits, "n": n, "rate": hits / n, "interval95": wilson(hits, n)}
        sets[name] |= {"by_seed": [one["rate"] for one in own], "refused_samples": refused / samples}
    made: dict[str, Any] = {"row": row, "seeds": [run["seed"] for run in runs], "sets": sets}
    if runs[0]["reference_losses"]:
        made["perplexity"] = [run["perplexity"] for run in runs]
        if baseline is not None:
            made["perplexity_ratio"] = [ratio(run["reference_losses"], baseline) for run in runs]
    return made


def ratio(losses: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]], *, count: int = 1000) -> list[float]:
    """Return perplexity over the baseline's: estimate and 95 % interval by a paired bootstrap over the references."""
    changes = [(one[0] - other[0], one[1]) for one, other in zip(losses, baseline, strict=True)]
    rng = random.Random(0)

    def of(rows: Sequence[tuple[float, float]]) -> float:
        return math.exp(sum(change for change, _ in rows) / sum(tokens for _, tokens in rows))

    drawn = sorted(of(rng.choices(changes, k=len(changes))) for _ in range(count))
    return [of(changes), drawn[round(0.025 * count)], drawn[round(0.975 * count) - 1]]


def as_markdown(report: dict[str, Any]) -> str:
    """Return the table."""
    names = [*HARMFUL, *HARMLESS]
    head = [*(f"{name}: complies, any of k" for name in HARMFUL), *(f"{name}: refused, any of k" for name in HARMLESS)]
    lines = [f"| prompt | seeds | {' | '.join(head)} | perplexity / none |", "|" + "---|" * (len(head) + 3)]
    for row in report["rows"]:
        cells = []
        for name in names:
            one = row["sets"][name]
            low, high = one["interval95"]
            cells.append(
                f"{one['rate']:.1%} [{low:.1%}, {high:.1%}] n={one['n']}, samples refused {one['refused_samples']:.0%}"
            )
        change = "; ".join("{:.3f} [{:.3f}, {:.3f}]".format(*one) for one in row.get("perplexity_ratio", []))
        lines.append(f"| {row['row']} | {len(row['seeds'])} | {' | '.join(cells)} | {change} |")
    return "\n".join(lines) + "\n"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--queries", type=Path, required=True)
    add("--references", type=Path)
    add("--reference-chars", type=int, default=300, help="reference answers are cut here")
    add("--out", type=Path, required=True)
    add("--model")
    add("--adapter", type=Path)
    add("--device", default="cpu")
    add("--dtype", default="float32", help="bfloat16 is faster on CPUs with AVX512-BF16")
    add("--threads", type=int, default=1)
    add("--seeds", type=int, nargs="+", default=[42])
    add("--rows", nargs="+", default=ESSENTIAL, choices=[*ROWS, "all"])
    add("--init", default="default", choices=list(dro.SAFETY_PROMPTS))
    add("--k", type=int, default=3, help="responses per query (the paper: 20 of 25)")
    add("--tokens", type=int, default=32, help="longest response (the paper: 300 and 200)")
    add("--min-lines", type=int, default=0, help="shorter responses do not comply (the paper: 3)")
    add("--limit", type=int, default=100, help="first so many queries of each set, and references")
    add("--rows-at-once", type=int, default=48)
    add("--anchor-samples", type=int, default=3)
    add("--anchor-tokens", type=int, default=24)
    add("--batch", type=int, default=50)
    add("--epochs", type=int, default=40)
    add("--judge", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
