"""Describe a fleet for Ray Serve."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from guardrail_plugin import ConfigError, InferencePool
from guardrail_ray.autoscaling import QueuedTokensPolicy
from guardrail_ray.host import Config, LoadModels, PoolHost, load_guardians

DEPLOYMENT = "pool"

# Calls, each a batch of one application's slot. Waiting is our pool's affair, so these only bound what a host holds.
_MOST_CALLS = 1024


def fleet(
    load: LoadModels = load_guardians,
    *,
    config: Config | None = None,
    min_hosts: int = 1,
    max_hosts: int = 1,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
    pool: Mapping[str, object] | None = None,
    target_tokens: int = 16_384,
    target_busy: float = 0.8,
    upscale_delay_s: float = 10.0,
    downscale_delay_s: float = 300.0,
    look_back_s: float = 30.0,
    drain_s: float = 30.0,
) -> serve.Application:
    """Return an application for ``serve.run(..., route_prefix=None)``.

    Run again with another ``config`` it is a rolling update: one fifth of the hosts at a time loads the new models
    beside the old ones and changes over; nobody is turned away.

    Args:
        load: registers the models with each host's pool.
        config: JSON for ``load``. Default: ``{"guardians": ["default"]}``.
        min_hosts: hosts that are always there.
        max_hosts: hosts at most. Ray starts and stops them on queued tokens (``QueuedTokensPolicy``).
        num_cpus: of a host. The pool runs one slot per CPU that is given here when there is no GPU.
        num_gpus: of a host.
        pool: settings of each host's ``InferencePool``.
        target_tokens: waiting tokens per host before there should be another.
        target_busy: share of time that a host should compute, 0..1.
        upscale_delay_s: how long more hosts must be wanted.
        downscale_delay_s: how long fewer hosts must be wanted.
        look_back_s: over which time the metrics are averaged.
        drain_s: how long a host that is stopped goes on answering what it has.

    Raises:
        ConfigError: ``target_tokens`` or ``target_busy`` is out of range; a pool setting is wrong.
    """
    if target_tokens < 1 or not 0 < target_busy <= 1:
        raise ConfigError(
            f"target_tokens must be at least 1 and target_busy in (0, 1], got {target_tokens}, {target_busy}"
        )
    settings = dict(pool or {})
    if not num_gpus:
        settings = {"replicas": max(1, int(num_cpus)), "devices": ["cpu"], **settings}
    try:
        open_pool = partial(InferencePool, **settings)  # type: ignore[arg-type]
        open_pool()  # so that a wrong setting is told here, not by a host
    except TypeError as error:
        raise ConfigError(f"pool: {error}") from None
    policy = AutoscalingPolicy(  # type: ignore[no-untyped-call]
        policy_function=QueuedTokensPolicy,
        policy_kwargs={"target_tokens": target_tokens, "target_busy": target_busy},
    )
    deploy = serve.deployment(
        name=DEPLOYMENT,
        user_config=dict(config or {"guardians": ["default"]}),
        ray_actor_options={"num_cpus": num_cpus, "num_gpus": num_gpus},
        max_ongoing_requests=_MOST_CALLS,
        max_queued_requests=_MOST_CALLS,
        graceful_shutdown_timeout_s=drain_s,
        autoscaling_config=AutoscalingConfig(
            min_replicas=min_hosts,
            max_replicas=max_hosts,
            upscale_delay_s=upscale_delay_s,
            downscale_delay_s=downscale_delay_s,
            look_back_period_s=look_back_s,
            policy=policy,
        ),
    )
    application: serve.Application = deploy(PoolHost).bind(load, open_pool)
    return application
