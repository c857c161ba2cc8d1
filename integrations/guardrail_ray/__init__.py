"""One fleet of pools on a Ray cluster for many applications.

On the cluster, once (again with another ``config`` for a rolling update)::

    serve.run(fleet(max_hosts=8, num_gpus=1), name="guardrail", route_prefix=None)

In each application, after ``ray.init(address=...)``::

    with RayPool(app="guardrail") as pool:
        guardian = Guardian.load(pool=pool)  # loads a tokenizer, no weights
        safe = guard(chain, guardian=guardian)
"""

from __future__ import annotations

from guardrail_plugin import MissingDependencyError

try:
    from guardrail_ray.autoscaling import QueuedTokensPolicy
    from guardrail_ray.fleet import fleet
    from guardrail_ray.host import LoadModels, PoolHost, load_guardians
    from guardrail_ray.pool import RayPool, RayReplicas
    from guardrail_ray.replica import RayReplica
except ModuleNotFoundError as error:
    if str(error.name).partition(".")[0] != "ray":
        raise
    raise MissingDependencyError("ray", extra="ray") from None

__all__ = [
    "LoadModels",
    "PoolHost",
    "QueuedTokensPolicy",
    "RayPool",
    "RayReplica",
    "RayReplicas",
    "fleet",
    "load_guardians",
]
