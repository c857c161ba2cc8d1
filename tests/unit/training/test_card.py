from __future__ import annotations

from pathlib import Path

from guardrail_plugin.core.hazards import MLCOMMONS
from guardrail_plugin.guardian.format import Layout
from guardrail_plugin.guardian.manifest import Calibration, HazardEntry, Manifest
from guardrail_plugin.training.card import write_card


def test_a_card_names_base_files_licences_and_figures(tmp_path: Path) -> None:
    manifest = Manifest(
        name="mine",
        base_model="someone/base",
        base_revision="abc",
        tokenizer_sha256="0",
        vocab_size=10,
        end_id=2,
        token_names=Layout(vocab_size=10, end_id=2).token_names,
        taxonomy=tuple(HazardEntry(code=h.code, name=h.name, definition=h.definition) for h in MLCOMMONS),
        calibration={"input": Calibration(temperature=1.25, threshold=0.5)},
        training={"seed": 3, "lora_rank": 16},
        metrics={"rows": 77, "f1": {"input": 0.9}, "auroc": {"input": 0.95}},
        sources=({"path": "harmful/x.jsonl", "rail": "input", "licence": "MIT"},),
    )
    write_card(tmp_path, manifest)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    for expected in (
        "`mine`",
        "`someone/base` at `abc`",
        "| `harmful/x.jsonl` | input | MIT |",
        "seed 3, lora_rank 16",
        "77 held-out rows",
        "| input | 0.900 | 0.950 | 1.25 | 0.5 |",
    ):
        assert expected in card
