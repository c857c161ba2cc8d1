"""Run in an environment that has the built wheel and its base dependencies only: no torch, no extras."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import sys

import guardrail_plugin
from guardrail_plugin import MLCOMMONS, MissingDependencyError, Policy, guard  # noqa: F401

assert "torch" not in sys.modules  # noqa: S101
assert "site-packages" in guardrail_plugin.__file__, guardrail_plugin.__file__  # noqa: S101
files = importlib.resources.files("guardrail_plugin")
for needed in ("py.typed", "weights/default/guardian.json", "weights/default/adapter_model.safetensors"):
    assert files.joinpath(needed).is_file(), f"the wheel lacks {needed}"  # noqa: S101
try:
    guardrail_plugin.Guardian.load(offline=True)
except MissingDependencyError as error:
    assert "guardrail-plugin[local]" in str(error), error  # noqa: S101
else:
    raise AssertionError("a guardian was loaded without its extra")
print(f"guardrail-plugin {importlib.metadata.version('guardrail-plugin')}: the wheel is complete")
