"""How fast the pool is and how long its callers wait: measured on this machine, simulated for fleets, and on paper.

``guardrail bench`` is the door. Nothing here is needed to guard a chain.
"""
