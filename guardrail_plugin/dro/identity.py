"""Which model an anchor or a soft prompt belongs to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from guardrail_plugin.core.errors import ConfigError, SoftPromptMismatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SAMPLES = 4096
"""Values of each tensor that are hashed: a merged adapter changes all of a tensor, and reading all takes long."""


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What must be the same for embeddings to mean the same.

    Attributes:
        width: d, the length of one embedding.
        base_model: hub id; ``None``: not known (a local folder is no name).
        revision: of the hub repository.
        tokenizer_sha256: of the vocabulary and its rules.
    """

    width: int
    base_model: str | None = None
    revision: str | None = None
    tokenizer_sha256: str | None = None

    @classmethod
    def of(
        cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None, *, base_model: str | None = None
    ) -> ModelIdentity:
        """Read a loaded model's identity.

        Args:
            model: its input embedding gives the width, its configuration the name and revision.
            tokenizer: hashed.
            base_model: the name to go by, where the model was loaded from a folder.
        """
        name = getattr(model, "name_or_path", "") or None
        if name is not None and (name.count("/") > 1 or Path(name).exists()):
            name = None
        return cls(
            width=int(model.get_input_embeddings().embedding_dim),
            base_model=base_model or name,
            revision=getattr(model.config, "_commit_hash", None),
            tokenizer_sha256=tokenizer_sha256(tokenizer) if tokenizer is not None else None,
        )

    def as_dict(self) -> dict[str, int | str | None]:
        """Return plain JSON types."""
        return asdict(self)


def require_same(expected: ModelIdentity, got: ModelIdentity) -> None:
    """Compare what both sides know.

    Raises:
        SoftPromptMismatch: the first field that differs, with both values.
    """
    for name in (one.name for one in fields(ModelIdentity)):
        wanted, found = getattr(expected, name), getattr(got, name)
        if wanted is not None and found is not None and wanted != found:
            raise SoftPromptMismatch(name, expected=wanted, got=found)


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of the vocabulary and its rules, whatever padding and truncation are set at the moment."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules: object = sorted(tokenizer.get_vocab().items())
    else:
        rules = {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("padding", "truncation")}
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


def model_sha256(model: PreTrainedModel) -> str:
    """Return a hash of a loaded model: its configuration, and each weight's name, type, shape and some of its values.

    A merged adapter and another number format give another hash; the folder that the model came from does not matter.

    Does not: tell models apart that differ in a few values only.
    """
    passing = ("_name_or_path", "transformers_version")
    config = {key: value for key, value in model.config.to_dict().items() if key not in passing}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, weight in model.named_parameters():
        digest.update(f"{name}:{weight.dtype}:{tuple(weight.shape)}".encode())
        if not weight.is_meta:  # offloaded
            step = weight.numel() // _SAMPLES | 1  # odd, so that it does not stay in one column
            some = weight.detach().flatten()[::step].contiguous().cpu()
            digest.update(some.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def identity_from(fields_read: object) -> ModelIdentity:
    """Read what ``as_dict`` wrote.

    Raises:
        ConfigError: it is not an identity.
    """
    try:
        if not isinstance(fields_read, dict):
            raise TypeError
        return ModelIdentity(**fields_read)
    except TypeError:
        raise ConfigError("the file does not say which model it belongs to") from None
