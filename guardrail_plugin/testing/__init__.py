"""Test doubles and checks that are part of the library, for its own tests and for those of its users.

``ScriptedGuardian`` and ``ScriptedModel`` are the doubles; ``paths`` calls a Runnable in every way, ``exits`` hears all
that leaves one; ``contract``, ``contract_tools`` and ``contract_agents`` hold the public contract suites.
"""

from guardrail_plugin.testing.guardians import ScriptedGuardian, allow_all, block_all, verdict
from guardrail_plugin.testing.models import ScriptedModel

__all__ = ["ScriptedGuardian", "ScriptedModel", "allow_all", "block_all", "verdict"]
