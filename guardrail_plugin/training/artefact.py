"""Write a trained guardian: PEFT adapter in bfloat16, ``guardian.json``, model card."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from guardrail_plugin.core.hazards import MLCOMMONS
from guardrail_plugin.guardian.manifest import ADAPTER_FILE, HazardEntry, Manifest
from guardrail_plugin.guardian.tokenizer import FastContentTokenizer
from guardrail_plugin.models.locate import EMBEDDED_MODEL, EMBEDDED_REVISION, Located
from guardrail_plugin.training.card import write_card
from guardrail_plugin.training.config import TrainConfig
from guardrail_plugin.training.network import GuardianNetwork
from guardrail_plugin.training.validation import Validation

STOPPED_AT = "stopped_at_step"
"""Key in the manifest's metrics of a guardian that was trained for fewer steps than its recipe asks for."""
DATA = "data_sha256"
"""Key in the manifest's metrics of the fingerprint of all that a guardian was trained on."""


def save_artefact(
    folder: Path,
    *,
    network: GuardianNetwork,
    config: TrainConfig,
    located: Located,
    tokenizer: FastContentTokenizer,
    validation: Validation,
    data: str,
    stopped_at: int | None = None,
) -> Manifest:
    """Write adapter and manifest into a folder; return the manifest.

    ``data`` is the fingerprint of what was trained on, ``stopped_at`` the number of steps of a run that was not to go
    on to its recipe's end.
    """
    from peft import get_peft_model_state_dict

    layout = network.layout
    revision = located.revision or (EMBEDDED_REVISION if located.model_id == EMBEDDED_MODEL else None)
    metrics = {k: v for k, v in dataclasses.asdict(validation).items() if k != "calibration"}
    metrics[DATA] = data
    if stopped_at is not None:
        metrics[STOPPED_AT] = stopped_at
    manifest = Manifest(
        name=folder.name,
        base_model=located.model_id,
        base_revision=revision,
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=layout.vocab_size,
        end_id=layout.end_id,
        token_names=layout.token_names,
        taxonomy=tuple(HazardEntry(code=h.code, name=h.name, definition=h.definition) for h in MLCOMMONS),
        window_tokens=layout.window_tokens,
        overlap_tokens=layout.overlap_tokens,
        context_tokens=layout.context_tokens,
        calibration=validation.calibration,
        training=config.model_dump(mode="json"),
        metrics=metrics,
        sources=tuple({"path": s.path, "rail": s.rail, "licence": s.licence} for s in config.sources),
    )
    state = get_peft_model_state_dict(network.peft, save_embedding_layers=False)
    tensors = {name: tensor.detach().to(torch.bfloat16).cpu().contiguous() for name, tensor in state.items()}
    header = {"format": "pt", "base_model": manifest.base_model, "base_revision": str(manifest.base_revision)}
    header |= {"seed": str(config.seed), "config": config.model_dump_json()}
    save_file(tensors, folder / ADAPTER_FILE, header)
    sort_header(folder / ADAPTER_FILE)
    peft_config = network.peft.peft_config["default"]
    peft_config.base_model_name_or_path = manifest.base_model  # not the folder that it was loaded from
    peft_config.target_modules = sorted(peft_config.target_modules)  # a set: in another order in every process
    peft_config.save_pretrained(str(folder))
    manifest.write(folder)
    write_card(folder, manifest)
    return manifest


def sort_header(file: Path) -> None:
    """Write a safetensors file's header with its keys sorted: the library writes metadata in random order.

    Offsets in the header count from its end, so the tensors are not touched.
    """
    raw = file.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.dumps(json.loads(raw[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    file.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + size :])
