"""Puts a guard model of any family together: checkpoint → family, tokenizer, and the replica that runs it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardrail_plugin.assembly.wanted import Wanted
from guardrail_plugin.core.dtype import Dtype, keyed
from guardrail_plugin.core.errors import ConfigError, ModelNotFoundError
from guardrail_plugin.guardian.families.characters import CharacterTokenizer
from guardrail_plugin.guardian.families.classifier import is_classifier
from guardrail_plugin.guardian.families.protocol import Checkpoint, Family, FamilyKind, FamilyOptions, Kit
from guardrail_plugin.guardian.families.registry import family_kind, recognise
from guardrail_plugin.guardian.families.tokens import TokenizerFile
from guardrail_plugin.guardian.manifest import Manifest
from guardrail_plugin.models.classifier import ClassifierWeights
from guardrail_plugin.models.guard_files import GuardFiles
from guardrail_plugin.models.load import load_causal_lm, model_folder, torch_dtype
from guardrail_plugin.models.locate import Located, locate, pinned
from guardrail_plugin.models.remote import RemoteFactory, shown_address, split_address
from guardrail_plugin.models.shared import SharedWeights

if TYPE_CHECKING:
    from guardrail_plugin.pool import InferencePool

_TWO_CLASSES = {0: "LABEL_0", 1: "LABEL_1"}
_MULTI_LABEL = "multi_label_classification"


@dataclass(frozen=True, slots=True)
class Made:
    """What a guardian is made of.

    Attributes:
        model_key: of the weights on the pool; guardians that ask the same weights differently share it.
        guardian_id: of this way to ask: what verdicts carry and caches tell guardians apart by.
        canary: the family's own harmful text, if it does not judge harm.
        manifest: of a guardian in the library's own format.
        base: what its adapter's weights stand on; ``None`` where ``model_key`` covers all weights.
    """

    family: Family
    model_key: str
    guardian_id: str
    canary: str | None = None
    manifest: Manifest | None = None
    base: str | None = None


def load_family(wanted: Wanted, found: Located, *, pool: InferencePool) -> Made:
    """Recognise a checkpoint's family, build it, and register the weights with the pool.

    Raises:
        ConfigError: no family or several claim it, the named one does not fit, or its template is broken.
        ModelNotFoundError: the folder holds no safetensors.
    """
    folder = model_folder(found)
    if not any(folder.glob("*.safetensors")):
        raise ModelNotFoundError(f"{folder} holds no *.safetensors: pickled weights are not loaded, convert them first")
    beside = folder if wanted.base is None else _located_base(wanted)
    files = GuardFiles.read(folder, tokenizer_folder=beside)
    checkpoint = _checkpoint(found.model_id, files)
    kind = recognise(checkpoint) if wanted.family is None else family_kind(wanted.family)
    if (kind.task == "classify") != is_classifier(checkpoint):
        raise ConfigError(f"the family {kind.name!r} does not run on {', '.join(checkpoint.architectures) or folder}")
    tokenizer = TokenizerFile(beside / "tokenizer.json")
    template = files.render if files.chat_template else None
    built = kind.build(Kit(checkpoint=checkpoint, tokenizer=tokenizer, template=template, options=wanted.options))
    dtype = wanted.dtype
    # The fingerprint is of the weights: the revision stands for tokenizer and template, too.
    key = keyed(pinned(f"{checkpoint.label}-{files.fingerprint}", wanted.revision), dtype)
    if kind.task == "classify":
        pad = files.config.get("pad_token_id")
        pool.register(key, ClassifierWeights(folder, pad_id=tokenizer.end if pad is None else int(pad), dtype=dtype))
    else:
        pool.register(key, SharedWeights(partial(_load, folder, dtype)))
    tells = "" if wanted.base is None else _named(files, beside)
    return Made(built, key, _guardian_id(kind, key, wanted.options, tokenizer=tells), kind.canary)


def _load(folder: Path, dtype: Dtype, *, device: str) -> Any:
    return load_causal_lm(folder, device=device, dtype=torch_dtype(dtype, device))


def load_remote(wanted: Wanted, address: str, *, pool: InferencePool) -> Made:
    """Build a family for a model behind an OpenAI-compatible server.

    With a base (a folder or hub id that has the tokenizer) the server is sent token ids, in which nothing of a text
    can be a control token. Without it the server is sent text, and what looks like a control token is broken up.

    Raises:
        ConfigError: the address is wrong, no family fits, or it is one that a server cannot score.
    """
    _, name = split_address(address)
    files = None if wanted.base is None else GuardFiles.read(_tokenizer_folder(wanted))
    checkpoint = Checkpoint(name) if files is None else _checkpoint(name, files)
    kind = recognise(checkpoint) if wanted.family is None else family_kind(wanted.family)
    if kind.task == "classify":
        raise ConfigError(f"the family {kind.name!r} is a classifier, which an OpenAI-compatible server does not score")
    tokenizer = CharacterTokenizer() if files is None else TokenizerFile(files.folder / "tokenizer.json")
    template = files.render if files is not None and files.chat_template else None
    built = kind.build(Kit(checkpoint=checkpoint, tokenizer=tokenizer, template=template, options=wanted.options))
    # The labels' ids are this tokenizer's own, so every guardian has a replica of its own.
    tells = "" if files is None else _named(files, files.folder)
    guardian_id = _guardian_id(kind, shown_address(address), wanted.options, tokenizer=tells)
    pool.register(guardian_id, RemoteFactory(address, codec=tokenizer))
    return Made(built, guardian_id, guardian_id, kind.canary)


def _checkpoint(model_id: str, files: GuardFiles) -> Checkpoint:
    # transformers writes no names where there are two classes with the names that it gives by itself.
    labels = files.config.get("id2label") or _TWO_CLASSES
    return Checkpoint(
        model_id=model_id,
        architectures=tuple(files.config.get("architectures") or ()),
        id2label={int(number): str(name) for number, name in labels.items()},
        multi_label=files.config.get("problem_type") == _MULTI_LABEL,
        max_positions=files.max_positions,
        template=files.chat_template,
    )


def _located_base(wanted: Wanted) -> Path:
    base = locate(str(wanted.base), revision=wanted.base_revision, offline=wanted.offline, weights=False)
    return model_folder(base)


def _tokenizer_folder(wanted: Wanted) -> Path:
    path = Path(str(wanted.base)).expanduser()
    if (path / "tokenizer.json").is_file() and wanted.base_revision is None:
        return path
    folder = _located_base(wanted)
    if not (folder / "tokenizer.json").is_file():
        raise ModelNotFoundError(f"{folder} holds no tokenizer.json")
    return folder


def _named(files: GuardFiles, beside: Path) -> str:
    """Return what tells one tokenizer and template from another."""
    digest = hashlib.sha256(files.chat_template.encode())
    digest.update((beside / "tokenizer.json").read_bytes())
    return digest.hexdigest()


def _guardian_id(kind: FamilyKind, key: str, options: FamilyOptions, *, tokenizer: str = "") -> str:
    name = f"{kind.name}/{key}"
    if options == FamilyOptions() and not tokenizer:
        return name
    asked = repr((options.hazards, options.policy_text, options.labels and dict(options.labels), options.strictness))
    return f"{name}+{hashlib.sha256((asked + tokenizer).encode()).hexdigest()[:8]}"
