"""Puts a guardian together: manifest, tokenizer, weights, pool. The one place that knows both guardian and models."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardrail_plugin.core.errors import ConfigError, ModelNotFoundError
from guardrail_plugin.guardian.guardian import Guardian
from guardrail_plugin.guardian.manifest import ADAPTER_FILE, MANIFEST_FILE, Manifest
from guardrail_plugin.guardian.tokenizer import FastContentTokenizer
from guardrail_plugin.models.load import model_folder
from guardrail_plugin.models.locate import locate
from guardrail_plugin.models.shared import shared_factory

if TYPE_CHECKING:
    from guardrail_plugin.pool import InferencePool

EMBEDDED_GUARDIAN = Path(__file__).parent / "weights" / "default"


def load_guardian(
    model: str | Path | None = None,
    *,
    pool: InferencePool | None = None,
    base: str | Path | None = None,
    max_windows: int = 64,
    offline: bool = False,
) -> Guardian:
    """Load a guardian; see ``Guardian.load``."""
    if max_windows < 1:
        raise ConfigError(f"max_windows must be at least 1, got {max_windows}")
    folder = _guardian_folder(model, offline=offline)
    manifest = Manifest.read(folder)
    located = locate(
        str(base) if base is not None else manifest.base_model, revision=manifest.base_revision, offline=offline
    )
    base_folder = model_folder(located)
    tokenizer = FastContentTokenizer(base_folder / "tokenizer.json")
    if tokenizer.sha256 != manifest.tokenizer_sha256:
        raise ConfigError(f"{located.path} has another vocabulary than {manifest.base_model}, the base of {folder}")
    key = f"{manifest.name}-{_short_hash(folder / ADAPTER_FILE)}"
    if pool is None:
        from guardrail_plugin.pool.default import default_pool

        pool = default_pool()
    load = partial(_load_merged, base_folder, folder, manifest)
    pool.register(key, shared_factory(load, first_suppressed=manifest.vocab_size))
    return Guardian(manifest=manifest, tokenizer=tokenizer, pool=pool, model_key=key, max_windows=max_windows)


def _load_merged(base_folder: Path, adapter: Path, manifest: Manifest, *, device: str) -> Any:
    """Return the base with the guardian's adapter merged into it."""
    from guardrail_plugin.models.load import apply_adapter, load_causal_lm

    model = load_causal_lm(base_folder, device=device)
    return apply_adapter(model, adapter, vocab_size=manifest.vocab_size, added_tokens=len(manifest.token_names))


def _guardian_folder(model: str | Path | None, *, offline: bool) -> Path:
    if model is None:
        if not (EMBEDDED_GUARDIAN / MANIFEST_FILE).is_file():
            raise ModelNotFoundError(f"this installation lacks the embedded guardian ({EMBEDDED_GUARDIAN})")
        return EMBEDDED_GUARDIAN
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / MANIFEST_FILE).is_file():
            raise ConfigError(f"{path} holds no {MANIFEST_FILE}; train a guardian with: guardrail train --out {path}")
        return path
    return locate(str(model), offline=offline).path


def _short_hash(file: Path) -> str:
    if not file.is_file():
        raise ModelNotFoundError(f"{file} is missing")
    return hashlib.sha256(file.read_bytes()).hexdigest()[:8]
