"""The page at ``/playground``: ask, see the verdict, watch what leaves and what is held back."""

from __future__ import annotations

from guardrail_gateway.playground.page import Playground

__all__ = ["Playground"]
