"""Load a base model and merge a guardian's adapter into it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from guardrail_plugin.core.dtype import Dtype
from guardrail_plugin.core.errors import ConfigError, MissingDependencyError
from guardrail_plugin.models.gguf import convert
from guardrail_plugin.models.locate import Located

_log = logging.getLogger(__name__)


def model_folder(located: Located, *, quiet: bool = False) -> Path:
    """Return a folder that transformers reads: the located one, or a GGUF's one-time conversion."""
    return convert(located.path, quiet=quiet) if located.path.suffix == ".gguf" else located.path


def default_device() -> str:
    """Return ``"cuda:0"``, ``"mps"`` or ``"cpu"``: the best that this machine has."""
    torch = import_torch()
    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def resolve_device(device: str) -> str:
    """Return the device itself, or the best there is for ``"auto"``.

    Raises:
        ConfigError: torch has no such device here.
    """
    if device == "auto":
        return default_device()
    torch = import_torch()
    try:
        asked = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"device {device!r} is none that torch knows; write cpu, cuda:0 or mps") from None
    have = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked.type == "cuda" and (asked.index or 0) >= have:
        seen = f"{have or 'no'} CUDA device{'s'[: have > 1]}"
        raise ConfigError(f"device {device!r}: torch sees {seen} here; `guardrail doctor` tells what there is")
    if asked.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"device {device!r}: torch has no MPS here; `guardrail doctor` tells what there is")
    return device


def device_places(device: str) -> list[str]:
    """Return where replicas of one model should live on this machine when the caller names a device.

    ``"auto"``: every GPU, or else as for ``"cpu"``: one place per compute thread that torch would use here (the cores,
    or what ``OMP_NUM_THREADS`` says), since one thread per replica beats several threads that wait for each other.
    """
    torch = import_torch()
    if device == "auto" and torch.cuda.is_available():
        return [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    where = resolve_device(device)
    if where != "cpu":
        return [where]
    from guardrail_plugin.models.torch_threads import usable_threads

    return [where] * usable_threads()


def default_dtype(device: str) -> Any:
    """Return bfloat16 on CUDA, float32 elsewhere (CPUs without AVX512-BF16 run bfloat16 about 9 times slower)."""
    torch = import_torch()
    return torch.bfloat16 if device.startswith("cuda") else torch.float32


def torch_dtype(dtype: Dtype, device: str) -> Any:
    """Return torch's own name of a number format, on a device."""
    return default_dtype(device) if dtype == "auto" else getattr(import_torch(), dtype)


def cpu_multiplies_bfloat16() -> bool:
    """Tell whether this CPU has instructions that multiply bfloat16 (AVX512-BF16 or AMX), which torch uses."""
    told: Callable[[], Mapping[str, object]] = getattr(
        import_torch().cpu, "get_capabilities", dict
    )  # not in older ones
    capabilities = told()
    return any(capabilities.get(name) is True for name in ("avx512_bf16", "amx_bf16"))


def import_torch() -> Any:
    """Return the torch module.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(error.name or "torch", extra="local") from None
    return torch


def load_causal_lm(folder: Path, *, device: str = "cpu", dtype: Any = None, trust_remote_code: bool = False) -> Any:
    """Return a causal language model in evaluation mode on a device.

    Raises:
        MissingDependencyError: torch or transformers is not installed.
    """
    import_torch()
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype or default_dtype(device),
        trust_remote_code=trust_remote_code,
        use_safetensors=True,  # never pickle
    )
    return model.to(device).eval()


def load_merged(
    folder: Path, adapter: Path, *, device: str, dtype: Any, vocab_size: int = 0, added_tokens: int = 0
) -> Any:
    """Return a base model with an adapter merged into it in float32, then rounded to a torch dtype.

    Raises:
        ConfigError, MissingDependencyError: as of ``apply_adapter``.
    """
    torch = import_torch()
    base = load_causal_lm(folder, device=device, dtype=torch.float32)
    merged = apply_adapter(base, adapter, vocab_size=vocab_size, added_tokens=added_tokens)
    with torch.no_grad():
        # Not merged.to(dtype): it would round the rotary frequencies, too, which every format keeps in float32.
        for weight in merged.parameters():
            weight.data = weight.data.to(dtype)
    merged.config.dtype = dtype
    return merged


def apply_adapter(model: Any, adapter: Path, *, vocab_size: int, added_tokens: int) -> Any:
    """Return the model with a PEFT adapter merged into its weights, its vocabulary grown by ``added_tokens`` rows.

    Raises:
        ConfigError: the base's vocabulary is not the one that the adapter was trained on.
        MissingDependencyError: peft is not installed.
    """
    try:
        from peft import PeftModel
    except ImportError:
        raise MissingDependencyError("peft", extra="local") from None
    rows = model.get_input_embeddings().num_embeddings
    if rows < vocab_size:
        raise ConfigError(f"the adapter needs a base with {vocab_size} vocabulary rows, this one has {rows}")
    if rows < vocab_size + added_tokens:
        model.resize_token_embeddings(vocab_size + added_tokens, mean_resizing=False)
    with warnings.catch_warnings():
        # peft warns that a grown vocabulary is not saved with the adapter; the trained rows are.
        warnings.simplefilter("ignore")
        merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    return merged.eval()
