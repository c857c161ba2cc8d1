"""What users import, and what importing costs them."""

from __future__ import annotations

import subprocess
import sys

import guardrail_plugin

HEAVY = ("torch", "transformers", "peft", "tokenizers", "huggingface_hub", "numpy", "rich", "typer")


def test_every_public_name_resolves_to_its_home() -> None:
    for name in guardrail_plugin.__all__:
        assert getattr(guardrail_plugin, name) is not None
    assert sorted(guardrail_plugin.__all__, key=str.lower) == sorted(set(guardrail_plugin.__all__), key=str.lower)


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(guardrail_plugin, "Guard")


def test_import_loads_nothing_heavy() -> None:
    code = f"import sys, guardrail_plugin; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_guard_and_pool_load_no_model_library() -> None:
    code = (
        "import sys\nfrom guardrail_plugin import InferencePool, Policy, guard, Guardian\n"
        "print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
