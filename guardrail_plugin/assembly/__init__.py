"""Puts guardians together: manifest, tokenizer, weights, pool. The one room that knows both guardian and models."""

from guardrail_plugin.assembly.described import load_described
from guardrail_plugin.assembly.loading import load_guardian
from guardrail_plugin.assembly.own import EMBEDDED_GUARDIAN, export_merged
from guardrail_plugin.assembly.wanted import Wanted

__all__ = ["EMBEDDED_GUARDIAN", "Wanted", "export_merged", "load_described", "load_guardian"]
