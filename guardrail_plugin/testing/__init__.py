"""Test doubles and checks that are part of the library, for its own tests and for those of its users."""

from guardrail_plugin.testing.guardians import ScriptedGuardian, allow_all, block_all, verdict

__all__ = ["ScriptedGuardian", "allow_all", "block_all", "verdict"]
