"""Puts a guardian together: manifest, tokenizer, weights, pool. The one place that knows both guardian and models."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardrail_plugin.assembly.family import load_family, load_remote
from guardrail_plugin.core.errors import ConfigError, ModelNotFoundError
from guardrail_plugin.guardian.families.protocol import FamilyOptions
from guardrail_plugin.guardian.families.registry import family_names
from guardrail_plugin.guardian.guardian import Guardian
from guardrail_plugin.guardian.manifest import ADAPTER_FILE, MANIFEST_FILE, Manifest
from guardrail_plugin.guardian.tokenizer import FastContentTokenizer
from guardrail_plugin.models.load import model_folder
from guardrail_plugin.models.locate import Located, locate
from guardrail_plugin.models.remote import PREFIX
from guardrail_plugin.models.shared import SharedWeights

if TYPE_CHECKING:
    from guardrail_plugin.guardian.protocol import GuardianProtocol
    from guardrail_plugin.pool import InferencePool

EMBEDDED_GUARDIAN = Path(__file__).parent.parent / "weights" / "default"


def load_guardian(
    model: str | Path | None = None,
    *,
    pool: InferencePool | None = None,
    base: str | Path | None = None,
    max_windows: int = 64,
    offline: bool = False,
    family: str | None = None,
    options: FamilyOptions | None = None,
    responder: GuardianProtocol | None = None,
    self_test: bool = True,
) -> Guardian:
    """Load a guardian; see ``Guardian.load``."""
    if max_windows < 1:
        raise ConfigError(f"max_windows must be at least 1, got {max_windows}")
    if pool is None:
        from guardrail_plugin.pool.default import default_pool

        pool = default_pool()
    asked = options or FamilyOptions()
    if isinstance(model, str) and family is None:
        family, model = _split_family(model)
    if isinstance(model, str) and model.startswith(PREFIX):
        made = load_remote(model, pool=pool, base=base, family=family, options=asked, offline=offline)
    else:
        found = _find(model, offline=offline)
        if (found.path / MANIFEST_FILE).is_file() and family in (None, "guardrail"):
            return _load_own(found.path, pool=pool, base=base, max_windows=max_windows, options=asked, offline=offline)
        made = load_family(found, pool=pool, base=base, family=family, options=asked, offline=offline)
    guardian = Guardian(
        family=made.family,
        pool=pool,
        model_key=made.model_key,
        guardian_id=made.guardian_id,
        responder=responder,
        max_windows=max_windows,
    )
    if self_test:
        guardian.self_test(made.canary)
    return guardian


def _split_family(model: str) -> tuple[str | None, str]:
    """Return family and model of ``FAMILY@MODEL``, the form for settings that are one word."""
    name, at, rest = model.partition("@")
    return (name, rest) if at and name in family_names() else (None, model)


def _load_own(
    folder: Path,
    *,
    pool: InferencePool,
    base: str | Path | None,
    max_windows: int,
    options: FamilyOptions,
    offline: bool,
) -> Guardian:
    if options != FamilyOptions():
        raise ConfigError("hazards=, policy_text=, labels= and strictness= are for other families; use a Policy here")
    manifest = Manifest.read(folder)
    located = locate(
        str(base) if base is not None else manifest.base_model, revision=manifest.base_revision, offline=offline
    )
    base_folder = model_folder(located)
    tokenizer = FastContentTokenizer(base_folder / "tokenizer.json")
    if tokenizer.sha256 != manifest.tokenizer_sha256:
        raise ConfigError(f"{located.path} has another vocabulary than {manifest.base_model}, the base of {folder}")
    key = f"{manifest.name}-{_short_hash(folder / ADAPTER_FILE)}"
    load = partial(_load_merged, base_folder, folder, manifest)
    pool.register(key, SharedWeights(load, first_suppressed=manifest.vocab_size))
    return Guardian(manifest=manifest, tokenizer=tokenizer, pool=pool, model_key=key, max_windows=max_windows)


def _load_merged(base_folder: Path, adapter: Path, manifest: Manifest, *, device: str) -> Any:
    """Return the base with the guardian's adapter merged into it."""
    from guardrail_plugin.models.load import apply_adapter, load_causal_lm

    model = load_causal_lm(base_folder, device=device)
    return apply_adapter(model, adapter, vocab_size=manifest.vocab_size, added_tokens=len(manifest.token_names))


def _find(model: str | Path | None, *, offline: bool) -> Located:
    if model is None:
        if not (EMBEDDED_GUARDIAN / MANIFEST_FILE).is_file():
            raise ModelNotFoundError(f"this installation lacks the embedded guardian ({EMBEDDED_GUARDIAN})")
        return Located(str(EMBEDDED_GUARDIAN), EMBEDDED_GUARDIAN, "package")
    path = Path(model).expanduser()
    if path.is_dir():
        if not any((path / file).is_file() for file in (MANIFEST_FILE, "config.json")):
            raise ConfigError(
                f"{path} holds no {MANIFEST_FILE} and no config.json; train a guardian with: "
                f"guardrail train --out {path}"
            )
        return Located(str(model), path, "path")
    return locate(str(model), offline=offline)


def _short_hash(file: Path) -> str:
    if not file.is_file():
        raise ModelNotFoundError(f"{file} is missing")
    return hashlib.sha256(file.read_bytes()).hexdigest()[:8]
