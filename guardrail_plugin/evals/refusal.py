"""Count refusals. The rules live in ``core``, because soft-prompt training counts them too."""

from __future__ import annotations

from guardrail_plugin.core.refusal import is_refusal

__all__ = ["is_refusal"]
