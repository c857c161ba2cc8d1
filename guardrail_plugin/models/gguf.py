"""A GGUF file converted once into a folder that transformers reads in about a second."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from guardrail_plugin.core.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LAYOUT_VERSION = 1  # raise it when what is written into the folder changes


def cache_root() -> Path:
    """Return the folder for converted models: ``$XDG_CACHE_HOME/guardrail-plugin`` or ``~/.cache/guardrail-plugin``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "guardrail-plugin"


def converted_folder(gguf: Path) -> Path:
    """Return where this file's conversion is, or will be: keyed by size and by the hash of its first and last MiB."""
    size = gguf.stat().st_size
    digest = hashlib.sha256(f"{_LAYOUT_VERSION}:{size}:".encode())
    with gguf.open("rb") as stream:
        digest.update(stream.read(1 << 20))
        stream.seek(max(0, size - (1 << 20)))
        digest.update(stream.read(1 << 20))
    return cache_root() / "gguf" / f"{gguf.stem}-{digest.hexdigest()[:16]}"


def convert(gguf: Path, *, quiet: bool = False) -> Path:
    """Convert a GGUF into the cache and return the folder; a folder that exists is returned at once.

    The work happens in a temporary sibling that is renamed at the end, so two processes can convert at the same time
    and a killed one leaves nothing that looks finished. Takes about 20 to 40 s for 135M parameters.

    Raises:
        MissingDependencyError: torch, transformers or gguf is not installed.
        ConfigError: the cache cannot be written.
    """
    target = converted_folder(gguf)
    if (target / "config.json").is_file():
        return target
    for package in ("torch", "transformers", "gguf"):
        _require(package)
    import torch
    from tqdm import tqdm
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    except OSError as error:
        raise ConfigError(
            f"the converted model cannot be kept in {target.parent} ({error.strerror}): "
            "let XDG_CACHE_HOME name a folder that can be written"
        ) from None
    try:
        with tqdm(total=3, desc="Converting the embedded model (once)", disable=quiet or None, unit="step") as bar:
            model = AutoModelForCausalLM.from_pretrained(
                str(gguf.parent),
                gguf_file=gguf.name,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
            )
            # The checkpoint is a plain one from here on; a quantization entry would make loaders look for GGUF again.
            if getattr(model.config, "quantization_config", None) is not None:
                del model.config.quantization_config
            bar.update()
            AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name).save_pretrained(part)
            bar.update()
            _write(model, part)
            bar.update()
        try:
            part.rename(target)
        except OSError:
            if not (target / "config.json").is_file():  # not merely another process that was faster
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _write(model: PreTrainedModel, folder: Path) -> None:
    """Write configuration and weights; ``save_pretrained`` writes nothing on the ranks above 0 of a distributed run."""
    from safetensors.torch import save_model

    model.config.architectures = [type(model).__name__]
    model.config.dtype = str(model.dtype).removeprefix("torch.")
    model.config.save_pretrained(str(folder))
    model.generation_config.save_pretrained(str(folder))
    save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})


def _require(package: str) -> None:
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise MissingDependencyError(package, extra="local")
