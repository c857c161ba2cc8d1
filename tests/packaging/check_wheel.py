"""Run in an environment that has the built wheel and its base dependencies only: no torch, no extras."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import sys

import guardrail_plugin
from guardrail_plugin import Guardian, MissingDependencyError, Policy, guard

NEEDED = ("py.typed", "weights/default/guardian.json", "weights/default/adapter_model.safetensors")


def main() -> None:
    assert "torch" not in sys.modules
    assert "site-packages" in guardrail_plugin.__file__, guardrail_plugin.__file__
    files = importlib.resources.files("guardrail_plugin")
    missing = [name for name in NEEDED if not files.joinpath(name).is_file()]
    assert not missing, f"the wheel lacks {missing}"
    assert callable(guard)
    assert Policy().on_failure == "block"
    message = ""
    try:
        Guardian.load(offline=True)
    except MissingDependencyError as error:
        message = str(error)
    assert "guardrail-plugin[local]" in message, message
    print(f"guardrail-plugin {importlib.metadata.version('guardrail-plugin')}: the wheel is complete")


if __name__ == "__main__":
    main()
