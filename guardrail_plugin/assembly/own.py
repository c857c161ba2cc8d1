"""Guardians in the library's own format: an adapter on its base, both merged into one model, or that on a server."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardrail_plugin.assembly.family import Made
from guardrail_plugin.assembly.wanted import Wanted
from guardrail_plugin.core.dtype import Dtype, dtype_named, keyed
from guardrail_plugin.core.errors import ConfigError, ModelNotFoundError
from guardrail_plugin.guardian.families.own import OwnFamily
from guardrail_plugin.guardian.families.protocol import FamilyOptions
from guardrail_plugin.guardian.families.tokens import TokenizerFile
from guardrail_plugin.guardian.manifest import ADAPTER_FILE, MANIFEST_FILE, Manifest
from guardrail_plugin.guardian.tokenizer import FastContentTokenizer
from guardrail_plugin.models.load import load_causal_lm, load_merged, model_folder, torch_dtype
from guardrail_plugin.models.locate import locate, pinned
from guardrail_plugin.models.remote import RemoteFactory, shown_address
from guardrail_plugin.models.shared import SharedWeights

if TYPE_CHECKING:
    from guardrail_plugin.pool import InferencePool

OWN_FAMILY = "guardrail"
EMBEDDED_GUARDIAN = Path(__file__).parent.parent / "weights" / "default"
MERGED_FILE = "model.safetensors"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")


def load_own(wanted: Wanted, folder: Path, *, pool: InferencePool) -> Made:
    """Register a folder that ``guardrail train`` or ``guardrail export`` wrote."""
    manifest = _manifest(folder, wanted.options)
    merged = not (folder / ADAPTER_FILE).is_file() and (folder / MERGED_FILE).is_file()
    base_folder = folder if merged and wanted.base is None else _base_folder(wanted, manifest)
    dtype = wanted.dtype
    weights = f"{manifest.name}-{_short_hash(folder / (MERGED_FILE if merged else ADAPTER_FILE))}"
    # The hash is of the weights: the revision stands for thresholds and calibration, too.
    key = keyed(pinned(weights, wanted.revision), dtype)
    # On a base of the caller's own the weights are others.
    model_key = key if merged or wanted.base is None else f"{key}@{_text_hash(str(base_folder.resolve()))}"
    load = partial(_load_merged_folder, folder, dtype) if merged else partial(_load, base_folder, folder, dtype)
    tokenizer = _tokenizer(base_folder, manifest, folder)
    pool.register(model_key, SharedWeights(load, first_suppressed=manifest.vocab_size))
    stands_on = None if merged else _base_named(wanted, manifest)
    return Made(OwnFamily(manifest.layout, tokenizer), model_key, key, manifest=manifest, base=stands_on)


def load_own_remote(wanted: Wanted, address: str, *, pool: InferencePool) -> Made:
    """Register an exported guardian that a server runs; its base is its folder, or that of its adapter.

    The server is sent token ids, and asked for exactly the labels' probabilities by id, which vLLM can.

    Raises:
        ConfigError: a revision is asked of the folder.
    """
    if wanted.base_revision is not None:
        raise ConfigError(f"base_revision={wanted.base_revision!r} is of a hub repository; base= is a folder here")
    folder = EMBEDDED_GUARDIAN if wanted.base is None else Path(wanted.base).expanduser()
    manifest = _manifest(folder, wanted.options)
    merged = (folder / "tokenizer.json").is_file()
    base_folder = folder if merged else _base_folder(replace(wanted, base=None), manifest)
    tokenizer = _tokenizer(base_folder, manifest, folder)
    key = f"{manifest.name}-{_short_hash(folder / MANIFEST_FILE)}@{shown_address(address)}"
    pool.register(key, RemoteFactory(address, codec=TokenizerFile(base_folder / "tokenizer.json")))
    return Made(OwnFamily(manifest.layout, tokenizer), key, key, manifest=manifest)


def is_own_remote(wanted: Wanted) -> bool:
    """Tell whether a server's model is one of the library's own."""
    if wanted.family is not None:
        return wanted.family == OWN_FAMILY
    return wanted.base is not None and (Path(wanted.base).expanduser() / MANIFEST_FILE).is_file()


def export_merged(
    out: Path,
    *,
    model: str | Path | None = None,
    base: str | Path | None = None,
    base_revision: str | None = None,
    dtype: Dtype = "float32",
    offline: bool = False,
) -> Path:
    """Write a guardian as one model without adapter, which transformers and inference servers load as it is.

    The folder holds weights, the base's tokenizer, ``guardian.json`` and what the guardian's folder says of it.
    The verdict's tokens are rows of the model only: no text is one of them.

    Args:
        model: folder of an adapter; ``None``: the embedded guardian.
        base, base_revision: instead of the base that it names, and a revision of that.
        dtype: ``"float32"`` gives the numbers of the adapter on its base; ``"bfloat16"`` is half the size.

    Raises:
        ConfigError: ``out`` is not empty, or the folder holds no adapter in the library's own format.
        ModelNotFoundError: the base is nowhere.
    """
    folder = EMBEDDED_GUARDIAN if model is None else Path(model).expanduser()
    manifest = _manifest(folder, FamilyOptions())
    if not (folder / ADAPTER_FILE).is_file():
        raise ConfigError(f"{folder} holds no {ADAPTER_FILE}: only an adapter can be merged")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not empty; name another folder")
    base_folder = _base_folder(Wanted(base=base, base_revision=base_revision, offline=offline), manifest)
    _tokenizer(base_folder, manifest, folder)
    merged = _load(base_folder, folder, dtype_named(dtype), device="cpu")
    out.mkdir(parents=True, exist_ok=True)
    merged.save_pretrained(out)
    for source, names in ((base_folder, _TOKENIZER_FILES), (folder, (MANIFEST_FILE, "README.md"))):
        for name in names:
            if (source / name).is_file():
                shutil.copyfile(source / name, out / name)
    return out


def _manifest(folder: Path, options: FamilyOptions) -> Manifest:
    if options != FamilyOptions():
        raise ConfigError("hazards=, policy_text=, labels= and strictness= are for other families; use a Policy here")
    if folder == EMBEDDED_GUARDIAN and not (folder / MANIFEST_FILE).is_file():
        raise ModelNotFoundError(f"this installation lacks the embedded guardian ({EMBEDDED_GUARDIAN})")
    return Manifest.read(folder)


def _base_folder(wanted: Wanted, manifest: Manifest) -> Path:
    model, revision = _base_of(wanted, manifest)
    return model_folder(locate(model, revision=revision, offline=wanted.offline))


def _base_named(wanted: Wanted, manifest: Manifest) -> str:
    """Return the base as people name it, with its revision; a folder by its full path."""
    model, revision = _base_of(wanted, manifest)
    folder = Path(model).expanduser()
    return str(folder.resolve()) if folder.is_dir() else pinned(model, revision)


def _base_of(wanted: Wanted, manifest: Manifest) -> tuple[str, str | None]:
    """Return the base, the caller's own or the manifest's, and its revision."""
    model = manifest.base_model if wanted.base is None else str(wanted.base)
    if wanted.base_revision is not None:
        return model, wanted.base_revision
    # The manifest's revision is one of its own base's repository and of no other.
    is_named = model == manifest.base_model and not Path(model).expanduser().exists()
    return model, manifest.base_revision if is_named else None


def _tokenizer(base_folder: Path, manifest: Manifest, folder: Path) -> FastContentTokenizer:
    tokenizer = FastContentTokenizer(base_folder / "tokenizer.json")
    if tokenizer.sha256 != manifest.tokenizer_sha256:
        raise ConfigError(f"{base_folder} has another vocabulary than {manifest.base_model}, the base of {folder}")
    return tokenizer


def _load(base: Path, adapter: Path, dtype: Dtype, *, device: str) -> Any:
    """Return the base with the guardian's adapter merged into it."""
    manifest = Manifest.read(adapter)
    return load_merged(
        base,
        adapter,
        device=device,
        dtype=torch_dtype(dtype, device),
        vocab_size=manifest.vocab_size,
        added_tokens=len(manifest.token_names),
    )


def _load_merged_folder(folder: Path, dtype: Dtype, *, device: str) -> Any:
    return load_causal_lm(folder, device=device, dtype=torch_dtype(dtype, device))


def _text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _short_hash(file: Path) -> str:
    if not file.is_file():
        raise ModelNotFoundError(f"{file} is missing")
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:8]
