"""A package of an extra that is not installed is named together with the extra that brings it."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "absent", "extra"),
    [
        ("guardrail_langchain", "langchain", "langchain"),
        ("guardrail_langchain", "langgraph", "langchain"),
        ("guardrail_fastapi", "fastapi", "fastapi"),
        ("guardrail_gateway", "starlette", "gateway"),
        ("guardrail_gateway", "fastapi", "gateway"),
        ("guardrail_gateway", "prometheus_client", "gateway"),
        ("guardrail_gateway", "uvicorn", "gateway"),
        ("guardrail_ray", "ray", "ray"),
    ],
)
def test_the_message_names_package_and_extra(module: str, absent: str, extra: str) -> None:
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from guardrail_plugin import MissingDependencyError
try:
    import {module}
except MissingDependencyError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(absent), done.stdout
    assert done.stdout.strip().endswith(f"is not installed. Run: pip install 'guardrail-plugin[{extra}]'")
