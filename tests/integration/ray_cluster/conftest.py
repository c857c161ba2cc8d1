"""A Ray cluster of two nodes with one CPU each, on two loopback addresses of this machine."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's modules warn about their own use of pydantic when they are imported
    pytest.importorskip("ray.serve", reason="ray is not installed: pip install 'guardrail-plugin[ray]'")

HEAD, SECOND = "127.0.0.2", "127.0.0.3"  # Ray gives 127.0.0.1 up for the machine's outer address; these it keeps
AGENT_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")

ATTEMPTS = 4


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    if not Path("/proc/net/tcp").exists():
        pytest.skip("two nodes on loopback addresses need Linux")
    with pytest.MonkeyPatch.context() as patch:
        import guardrail_ray

        root = str(Path(guardrail_ray.__file__).parents[1])
        settings = {
            "PYTHONPATH": os.pathsep.join([root, str(Path(root).parent), os.environ.get("PYTHONPATH", "")]),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "RAY_agent_register_timeout_ms": "180000",  # a node dies when its Python agents start slowly
        }
        for name, value in settings.items():
            patch.setenv(name, value)
        import ray
        import ray._private.utils as ray_utils
        from ray import serve
        from ray.cluster_utils import Cluster

        # Nodes with small agents: the full ones take longer to import than a busy machine's raylet waits for them.
        patch.setattr(ray_utils, "get_dashboard_dependency_error", lambda: ImportError("not wanted here"))
        cluster = Cluster()
        try:
            _add_node(cluster, include_dashboard=False, node_ip_address=HEAD)
            _add_node(cluster, node_ip_address=SECOND)
            ray.init(address=cluster.address, _node_ip_address=HEAD, log_to_driver=False, logging_level="ERROR")
            serve.start(proxy_location="Disabled")
            yield cluster
        finally:
            if ray.is_initialized():
                serve.shutdown()
                ray.shutdown()
            cluster.shutdown()


def _add_node(cluster: Any, **settings: Any) -> None:
    """Start a node, in several attempts: on a busy machine its Python agents miss the 15 s that Ray gives them."""
    for attempt in range(ATTEMPTS):
        try:
            cluster.add_node(num_cpus=1, **settings, **_free_ports())
            return
        except Exception:  # noqa: PERF203 - Ray has no narrower one; what it left behind ends with this process
            if attempt == ATTEMPTS - 1:
                raise


def _free_ports() -> dict[str, int]:
    """Return ports for a node's agents: with ports of their own choice the node waits for each to tell its one."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in AGENT_PORTS]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return {name: one.getsockname()[1] for name, one in zip(AGENT_PORTS, sockets, strict=True)}
