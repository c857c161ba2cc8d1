"""The model card that every trained guardian carries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guardrail_plugin.guardian.manifest import Manifest

CARD_FILE = "README.md"


def write_card(folder: Path, manifest: Manifest) -> None:
    """Write a model card from what the manifest knows: base, data with licences, settings, validation figures."""
    parts = [_head(manifest), _data(manifest), _settings(manifest.training), _validation(manifest), _use()]
    (folder / CARD_FILE).write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _head(manifest: Manifest) -> str:
    revision = f" at `{manifest.base_revision}`" if manifest.base_revision else ""
    return (
        f"# Guardian `{manifest.name}`\n\n"
        f"A LoRA adapter and {len(manifest.token_names)} token rows on `{manifest.base_model}`{revision}, trained by "
        "guardrail-plugin to detect harmful text, name its hazard, and write a safeguard response.\n\n"
        "```python\n"
        "from guardrail_plugin import Guardian\n\n"
        'Guardian.load("path/of/this/folder").check("...")\n'
        "```"
    )


def _data(manifest: Manifest) -> str:
    rows = [f"| `{s['path']}` | {s['rail']} | {s['licence']} |" for s in manifest.sources]
    return "\n".join(["## Training data", "", "| file | rail | licence, as stated |", "|---|---|---|", *rows])


def _settings(training: Mapping[str, Any]) -> str:
    shown = (
        "seed", "task", "epochs", "lora_rank", "lora_alpha", "learning_rate", "token_learning_rate", "batch_tokens",
        "max_tokens", "lambda_response", "response_share", "label_smoothing", "validation_fraction",
    )  # fmt: skip
    settings = ", ".join(f"{name} {training[name]}" for name in shown if name in training)
    return f"## Training\n\nloss = detection + λ · response. {settings}. The whole configuration is in `guardian.json`."


def _validation(manifest: Manifest) -> str:
    lines = ["## Validation", "", f"{manifest.metrics.get('rows', 0)} held-out rows of the training files.", ""]
    lines += ["| rail | F1 at 0.5 | AUROC | temperature | threshold |", "|---|---|---|---|---|"]
    for rail, calibration in manifest.calibration.items():
        measured = (manifest.metrics.get(key, {}).get(rail) for key in ("f1", "auroc"))
        f1, auroc = ("–" if figure is None else f"{figure:.3f}" for figure in measured)
        lines.append(f"| {rail} | {f1} | {auroc} | {calibration.temperature} | {calibration.threshold} |")
    return "\n".join([*lines, "", "Held-out rows resemble the training rows; run `guardrail evaluate` on other data."])


def _use() -> str:
    return (
        "## Intended use and limits\n\n"
        "A filter in front of, or behind, a language model; one layer among others, not a proof of safety. Languages, "
        "jailbreak styles and domains that the training data lacks are judged less reliably: measure on your own "
        "traffic and set thresholds with `guardrail calibrate`."
    )
