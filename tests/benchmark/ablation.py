"""Is one model for both tasks as good as two? Same data, same steps: one task, both; λ, rank and label tokens.

    python tests/benchmark/ablation.py --data DATA_FOLDER --out runs/ablation --steps 250

Every variant starts from the base with the mix of the recipe "default". Measured on the recipe's held-out rows: AUROC
and F1 of the input rail, loss per response token, share of written responses that refuse. "One label" names no hazard:
the model learns harmful or not. Finished variants are not run again.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import f1_score, roc_auc_score

from guardrail_plugin.evals import is_refusal
from guardrail_plugin.guardian.format import response_prompt
from guardrail_plugin.training.config import TrainConfig
from guardrail_plugin.training.encode import Encoded, encode
from guardrail_plugin.training.loop import _Run
from guardrail_plugin.training.loss import response_loss
from guardrail_plugin.training.mix import with_response
from guardrail_plugin.training.rows import Example
from guardrail_plugin.training.validation import risk_log_odds

RECIPE = Path(__file__).parents[2] / "guardrail_plugin" / "training" / "recipes" / "default.toml"
VARIANTS: dict[str, dict[str, Any]] = {
    "both (λ 0.5, rank 16)": {},
    "detection only": {"task": "detection"},
    "response only": {"task": "response"},
    "both, λ 0.2": {"lambda_response": 0.2},
    "both, λ 1": {"lambda_response": 1.0},
    "both, rank 4": {"lora_rank": 4, "lora_alpha": 8},
    "both, rank 32": {"lora_rank": 32, "lora_alpha": 64},
    "detection only, one label": {"task": "detection"},
}


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--batch-tokens", type=int, default=512)
    parser.add_argument("--responses", type=int, default=60)
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        file = options.out / f"{name.replace(' ', '_').replace(',', '')}.json"
        if not file.is_file():
            file.write_text(json.dumps(run(name, options), indent=1))
    found = [json.loads(path.read_text()) for path in sorted(options.out.glob("*.json"))]
    print("| variant | AUROC | F1 | response loss per token | refuses |\n|---|---|---|---|---|")
    for row in sorted(found, key=lambda r: list(VARIANTS).index(r["variant"])):
        print("| " + " | ".join([row["variant"], *(row[k] for k in ("auroc", "f1", "loss", "refuses"))]) + " |")


def run(name: str, options: argparse.Namespace) -> dict[str, str]:
    """Train one variant and measure it."""
    config = TrainConfig.from_toml(RECIPE).model_copy(
        update={
            "batch_tokens": options.batch_tokens,
            "precision": options.precision,
            "response_share": 0.3,
            "start_from": None,
            "token_learning_rate": 2e-3,
            **VARIANTS[name],
        }
    )
    kind = Unnamed if "one label" in name else _Run
    state = kind.prepare(config, [options.data], device="cpu", quiet=True)
    state.total_steps()
    for step, batch in state.steps(0, options.steps):
        losses = state.step(batch, step, options.steps)
        if step % 20 == 0:
            print(name, step, *(f"{loss:.3f}" for loss in losses), flush=True)
    state.network.eval()
    with state.precision():
        return {"variant": name} | measured(state, options.responses)


class Unnamed(_Run):
    """Sees that a row is harmful, and not in which way."""

    def encode_all(self, examples: Sequence[Any], *, epoch: int = 0) -> list[Encoded]:
        return super().encode_all([replace(e, hazard=None) for e in examples], epoch=epoch)


@torch.no_grad()
def measured(state: _Run, count: int) -> dict[str, str]:
    """Measure a trained variant on the held-out rows."""
    held = [e for e in state.pools.validation if e.rail == "input"]
    scores = risk_log_odds(state.network, state.encode_all(held), batch_tokens=2048).numpy()
    harmful = np.array([e.harmful for e in held])
    row = {"n": str(len(held))}
    row["auroc"] = interval(lambda i: roc_auc_score(harmful[i], scores[i]), len(held))
    row["f1"] = interval(lambda i: f1_score(harmful[i], scores[i] > 0), len(held))
    return row | responses(state, held, count)


@torch.no_grad()
def responses(state: _Run, held: list[Example], count: int) -> dict[str, str]:
    """Loss on written responses, and how many generated ones refuse."""
    everyone = state.config.model_copy(update={"task": "both", "response_share": 1.0, "wrong_label_share": 0.0})
    rng = random.Random(0)
    written = [with_response(e, everyone, state.pools, rng) for e in held if e.harmful and e.hazard]
    written = rng.sample([e for e in written if e.response], count)
    rows = [encode(e, state.layout, state.tokenizer, config=everyone, rng=rng) for e in written]
    losses = np.array([float(response_loss(*state.network([row])[2:]).float()) for row in rows])
    starts = [
        response_prompt(row.ids[: row.verdict_at + 1], state.layout, e.hazard or "S1")
        for row, e in zip(rows, written, strict=True)
    ]
    refused = np.array([is_refusal(write(state, start)) for start in starts])
    return {
        "loss": interval(lambda i: losses[i].mean(), count),
        "refuses": interval(lambda i: refused[i].mean(), count),
        "responses": str(count),
    }


def write(state: _Run, start: tuple[int, ...]) -> str:
    """Decode greedily after a prompt."""
    made = state.network.peft.generate(
        input_ids=torch.tensor([start]), max_new_tokens=48, do_sample=False, pad_token_id=state.layout.end_id
    )
    ids = made[0, len(start) :].tolist()
    ended = ids.index(state.layout.end_id) if state.layout.end_id in ids else len(ids)
    return state.tokenizer.decode(ids[:ended])


def interval(statistic: Any, n: int) -> str:
    """A figure with its bootstrap 95 % interval."""
    rng = np.random.default_rng(0)
    draws = [statistic(rng.integers(0, n, n)) for _ in range(500)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{statistic(np.arange(n)):.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
