"""Puts a guardian together: manifest, tokenizer, weights, pool. The one place that knows both guardian and models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from guardrail_plugin.assembly.family import load_family, load_remote
from guardrail_plugin.assembly.own import EMBEDDED_GUARDIAN, OWN_FAMILY, is_own_remote, load_own, load_own_remote
from guardrail_plugin.core.dtype import Dtype, dtype_named
from guardrail_plugin.core.errors import ConfigError, ModelNotFoundError
from guardrail_plugin.guardian.families.protocol import FamilyOptions
from guardrail_plugin.guardian.families.registry import family_names
from guardrail_plugin.guardian.guardian import Guardian
from guardrail_plugin.guardian.manifest import MANIFEST_FILE
from guardrail_plugin.guardian.responding import Responses
from guardrail_plugin.models.locate import Located, locate
from guardrail_plugin.models.remote import PREFIX

if TYPE_CHECKING:
    from guardrail_plugin.guardian.protocol import GuardianProtocol
    from guardrail_plugin.pool import InferencePool


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
    responses: Responses = "model",
    self_test: bool = True,
    warm_up: bool = False,
    dtype: Dtype = "auto",
) -> Guardian:
    """Load a guardian; see ``Guardian.load``."""
    if max_windows < 1:
        raise ConfigError(f"max_windows must be at least 1, got {max_windows}")
    dtype = dtype_named(dtype)
    if pool is None:
        from guardrail_plugin.pool.default import default_pool

        pool = default_pool()
    asked = options or FamilyOptions()
    if isinstance(model, str) and family is None:
        family, model = _split_family(model)
    if isinstance(model, str) and model.startswith(PREFIX):
        if dtype != "auto":
            raise ConfigError(f"dtype={dtype!r} is for models that are loaded here; a server chooses its own")
        if is_own_remote(base, family):
            made = load_own_remote(model, pool=pool, base=base, options=asked, offline=offline)
        else:
            made = load_remote(model, pool=pool, base=base, family=family, options=asked, offline=offline)
    else:
        found = _find(model, offline=offline)
        if (found.path / MANIFEST_FILE).is_file() and family in (None, OWN_FAMILY):
            made = load_own(found.path, pool=pool, base=base, options=asked, offline=offline, dtype=dtype)
            self_test = False  # its weights are read when they are first needed
        else:
            made = load_family(found, pool=pool, base=base, family=family, options=asked, offline=offline, dtype=dtype)
    guardian = Guardian(
        family=made.family,
        manifest=made.manifest,
        pool=pool,
        model_key=made.model_key,
        guardian_id=made.guardian_id,
        responder=responder,
        responses=responses,
        max_windows=max_windows,
        base=made.base,
    )
    if self_test:
        guardian.self_test(made.canary)
    elif warm_up:
        guardian.warm_up()
    return guardian


def _split_family(model: str) -> tuple[str | None, str]:
    """Return family and model of ``FAMILY@MODEL``, the form for settings that are one word."""
    name, at, rest = model.partition("@")
    return (name, rest) if at and name in (OWN_FAMILY, *family_names()) else (None, model)


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
