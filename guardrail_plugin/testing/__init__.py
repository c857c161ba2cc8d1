"""Test doubles and checks that are part of the library, for its own tests and for those of its users.

``ScriptedGuardian``, ``ScriptedModel`` and ``ScriptedReplica`` are the doubles; ``paths`` calls a Runnable in every
way, ``exits`` hears all that leaves one; ``contract``, ``contract_tools`` and ``contract_agents`` hold the public
contract suites.
"""

from guardrail_plugin.testing.guardians import ScriptedGuardian, allow_all, block_all, verdict
from guardrail_plugin.testing.models import ScriptedModel
from guardrail_plugin.testing.replicas import ScriptedReplica

__all__ = ["ScriptedGuardian", "ScriptedModel", "ScriptedReplica", "allow_all", "block_all", "verdict"]
