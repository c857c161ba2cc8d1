"""Puts a guardian together: manifest, tokenizer, weights, pool. The one place that knows both guardian and models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from guardrail_plugin.assembly.family import load_family, load_remote
from guardrail_plugin.assembly.own import EMBEDDED_GUARDIAN, OWN_FAMILY, is_own_remote, load_own, load_own_remote
from guardrail_plugin.assembly.wanted import Wanted
from guardrail_plugin.core.dtype import dtype_named
from guardrail_plugin.core.errors import ConfigError, ModelNotFoundError
from guardrail_plugin.guardian.families.registry import family_kind, family_names
from guardrail_plugin.guardian.guardian import Guardian
from guardrail_plugin.guardian.manifest import MANIFEST_FILE
from guardrail_plugin.guardian.responding import Responses
from guardrail_plugin.models.locate import Located, locate
from guardrail_plugin.models.remote import PREFIX

if TYPE_CHECKING:
    from guardrail_plugin.guardian.protocol import GuardianProtocol
    from guardrail_plugin.pool import InferencePool


def load_guardian(
    wanted: Wanted,
    *,
    pool: InferencePool | None = None,
    max_windows: int = 64,
    responder: GuardianProtocol | None = None,
    responses: Responses = "model",
    self_test: bool = True,
    warm_up: bool = False,
) -> Guardian:
    """Load a guardian; see ``Guardian.load``."""
    if max_windows < 1:
        raise ConfigError(f"max_windows must be at least 1, got {max_windows}")
    wanted = _checked(wanted)
    if pool is None:
        from guardrail_plugin.pool.default import default_pool

        pool = default_pool()
    if isinstance(wanted.model, str) and wanted.model.startswith(PREFIX):
        load = load_own_remote if is_own_remote(wanted) else load_remote
        made = load(wanted, wanted.model, pool=pool)
    else:
        found = _find(wanted)
        if (found.path / MANIFEST_FILE).is_file() and wanted.family in (None, OWN_FAMILY):
            made = load_own(wanted, found.path, pool=pool)
            self_test = False  # its weights are read when they are first needed
        else:
            made = load_family(wanted, found, pool=pool)
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


def _checked(wanted: Wanted) -> Wanted:
    """Return what is wanted, a family in front of the model's name split off it.

    Raises:
        ConfigError: it holds what has no use for this kind of model, or there is no such ``dtype``.
    """
    wanted = replace(wanted, dtype=dtype_named(wanted.dtype))
    model = wanted.model
    if isinstance(model, str) and wanted.family is None:
        family, model = _split_family(model)
        wanted = replace(wanted, family=family, model=model)
    if wanted.family not in (None, OWN_FAMILY):
        family_kind(wanted.family)  # before anything is fetched
    if wanted.base_revision is not None and wanted.base is None:
        raise ConfigError(f"base_revision={wanted.base_revision!r} is of the hub repository that base= names: name one")
    if isinstance(model, str) and model.startswith(PREFIX):
        if wanted.dtype != "auto":
            raise ConfigError(f"dtype={wanted.dtype!r} is for models that are loaded here; a server chooses its own")
        if wanted.revision is not None:
            raise ConfigError(f"revision={wanted.revision!r} is of a hub repository; a server chooses its own weights")
    elif model is None and wanted.revision is not None:
        raise ConfigError(f"revision={wanted.revision!r} is of a hub repository; the embedded guardian comes with us")
    return wanted


def _split_family(model: str) -> tuple[str | None, str]:
    """Return family and model of ``FAMILY@MODEL``, the form for settings that are one word.

    No hub id holds an ``@``: what is neither a server nor a path was meant to name a family.
    """
    name, at, rest = model.partition("@")
    meant = at and not model.startswith(PREFIX) and not Path(model).expanduser().exists()
    return (name, rest) if meant or (at and name in (OWN_FAMILY, *family_names())) else (None, model)


def _find(wanted: Wanted) -> Located:
    model = wanted.model
    if model is None:
        if not (EMBEDDED_GUARDIAN / MANIFEST_FILE).is_file():
            raise ModelNotFoundError(f"this installation lacks the embedded guardian ({EMBEDDED_GUARDIAN})")
        return Located(str(EMBEDDED_GUARDIAN), EMBEDDED_GUARDIAN, "package")
    path = Path(model).expanduser()
    if path.is_dir() and wanted.revision is None:
        if not any((path / file).is_file() for file in (MANIFEST_FILE, "config.json")):
            raise ConfigError(
                f"{path} holds no {MANIFEST_FILE} and no config.json; train a guardian with: "
                f"guardrail train --out {path}"
            )
        return Located(str(model), path, "path")
    return locate(str(model), revision=wanted.revision, offline=wanted.offline)
