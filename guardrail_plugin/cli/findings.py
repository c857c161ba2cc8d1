"""What is installed and on which hardware a model would run. Works where torch is absent or broken."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Literal, TypeAlias

from guardrail_plugin._version import __version__
from guardrail_plugin.core.errors import MissingDependencyError

State: TypeAlias = Literal["ok", "missing", "note"]

DISTRIBUTION = "guardrail-plugin"
GET_LOCAL = f"pip install '{DISTRIBUTION}[local]'"

# Distribution → the command that brings it. The first list decides whether a guardian can run.
_NEEDED = {
    **dict.fromkeys(("langchain-core", "pydantic", "tenacity"), f"pip install {DISTRIBUTION}"),
    **dict.fromkeys(("torch", "transformers", "tokenizers", "safetensors", "huggingface-hub", "peft"), GET_LOCAL),
}
_OPTIONAL = {
    **dict.fromkeys(("gguf", "tqdm"), GET_LOCAL),
    **dict.fromkeys(("scikit-learn", "matplotlib"), f"pip install '{DISTRIBUTION}[train]'"),
}

# Source: 250 texts judged by the embedded guardian on a CPU with AVX512-BF16: 15.6 s in float32, 3.8 s in bfloat16.
_FASTER = '; this CPU multiplies bfloat16: dtype="bfloat16" (--dtype) runs about three times as many tokens per second'


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        state: ``"ok"``; ``"missing"``: without it no guardian runs; ``"note"``: something else works less well.
        mend: commands that mend it, each of them on its own.
    """

    group: str
    name: str
    state: State
    detail: str
    mend: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Return plain JSON types."""
        return {**asdict(self), "mend": list(self.mend)}


def installed() -> Iterator[Finding]:
    """Yield Python, this library and the packages that it uses."""
    yield Finding("Python", "python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("Python", DISTRIBUTION, "ok", __version__)
    for name, command in {**_NEEDED, **_OPTIONAL}.items():
        yield _package(name, command, lacking="missing" if name in _NEEDED else "note")


def hardware() -> Iterator[Finding]:
    """Yield device, dtype and threads as a model would get them. Imports torch."""
    group = "Hardware"
    try:
        from guardrail_plugin.models.load import cpu_multiplies_bfloat16, default_device, default_dtype, import_torch

        torch = import_torch()
        device = default_device()
        name = f" ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else ""
        dtype = str(default_dtype(device)).removeprefix("torch.")
        faster = device == "cpu" and cpu_multiplies_bfloat16()
        threads = f"{torch.get_num_threads()} (this machine has {os.cpu_count()} cores)"
    except MissingDependencyError as error:
        yield Finding(group, "device", "missing", f"unknown: {error.package} is not installed", (GET_LOCAL,))
        return
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        detail = f"torch or transformers does not load: {type(error).__name__}: {error}"
        yield Finding(group, "device", "missing", detail, ("pip install --force-reinstall torch transformers",))
        return
    yield Finding(group, "device", "ok", device + name)
    yield Finding(group, "dtype", "ok", dtype + _FASTER if faster else dtype)
    yield Finding(group, "CPU threads", "ok", threads)


def _package(name: str, command: str, *, lacking: State) -> Finding:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding("Packages", name, lacking, "not installed", (command,))
    wanted = _wanted(name)
    if wanted is not None and not _fits(version, wanted):
        return Finding("Packages", name, lacking, f"{version}, needed is {wanted}", (f"pip install '{name}{wanted}'",))
    return Finding("Packages", name, "ok", version)


def _wanted(name: str) -> str | None:
    """Return the version range of a package as our own metadata states it; ``None`` where it states none."""
    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:  # run from a source tree
        return None
    try:
        from packaging.requirements import Requirement
        from packaging.utils import canonicalize_name
    except ImportError:
        return None
    for requirement in map(Requirement, lines):
        if canonicalize_name(requirement.name) == name:
            return str(requirement.specifier)
    return None


def _fits(version: str, wanted: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(wanted).contains(version, prereleases=True)
