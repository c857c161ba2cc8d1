"""A Prometheus server of one's own, and the dashboard's queries as Grafana would ask them."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from guardrail_gateway import grafana_dashboard

_START_S = 30.0
_CONFIG = """\
global:
  scrape_interval: {every}s
  scrape_timeout: {every}s
scrape_configs:
  - job_name: guardrail
    authorization:
      credentials: {key}
    static_configs:
      - targets: ["{target}"]
"""


def binary() -> str | None:
    """Return the program that ``GUARDRAIL_PROMETHEUS`` names, or the one on the path."""
    return shutil.which(os.environ.get("GUARDRAIL_PROMETHEUS") or "prometheus")


def panels() -> list[dict[str, Any]]:
    """Return the dashboard's panels, without rows."""
    return [panel for panel in json.loads(grafana_dashboard())["panels"] if panel["type"] != "row"]


@dataclass(frozen=True, slots=True)
class Series:
    """One line of an answer: labels, times since the epoch and values."""

    labels: Mapping[str, str]
    at_s: list[float]
    values: list[float]

    @property
    def numbers(self) -> list[float]:
        """The values that Grafana can draw."""
        return [value for value in self.values if math.isfinite(value)]

    def legend(self, form: str) -> str:
        """Fill in a legend as Grafana does: a label that is missing leaves nothing."""
        return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: self.labels.get(found[1], ""), form)


class Prometheus:
    """A server that scrapes one gateway, asked as Grafana asks it."""

    def __init__(self, url: str, *, every_s: int) -> None:
        self.every_s = every_s
        self._client = httpx2.Client(base_url=f"{url}/api/v1", trust_env=False, timeout=30.0)

    def get(self, path: str, **parameters: str | float) -> Any:
        """Return the data of an answer.

        Raises:
            ValueError: Prometheus says that something is wrong, or warns.
        """
        told = self._client.get(path, params=parameters).json()
        if told["status"] != "success" or told.get("warnings") or told.get("infos"):
            raise ValueError({key: value for key, value in told.items() if key != "data"})
        return told["data"]

    def filled(self, query: str, **chosen: str) -> str:
        """Put in the variables: all jobs and instances unless chosen; ``$__rate_interval`` at the finest step."""
        values = {
            "job": ".*",
            "instance": ".*",
            "__rate_interval": f"{4 * self.every_s}s",
            **{name: re.escape(value).replace("\\", "\\\\") for name, value in chosen.items()},
        }
        return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: values[found[1] or found[2]], query)

    def range(self, query: str, *, start_s: float, end_s: float) -> list[Series]:
        """Return the series of a query over a span of time."""
        told = self.get("/query_range", query=query, start=start_s, end=end_s, step=self.every_s)
        return [
            Series(one["metric"], [at for at, _ in one["values"]], [float(value) for _, value in one["values"]])
            for one in told["result"]
        ]

    def wait(self, count: int, *, alive: Callable[[], bool] = lambda: True) -> None:
        """Wait for so many more scrapes.

        Raises:
            RuntimeError: the server has ended, or they do not come.
        """
        ticker, goal = threading.Event(), count + self._scraped_or_none()
        for _ in range(int(_START_S / 0.1)):
            if not alive():
                break
            if self._scraped_or_none() >= goal:
                return
            ticker.wait(0.1)  # it tells nobody
        raise RuntimeError("prometheus did not start, or cannot scrape the gateway")

    def _scraped_or_none(self) -> int:
        try:
            told = self.get("/query", query="sum(sum_over_time(up[1h]))")["result"]
        except (httpx2.TransportError, ValueError):
            return 0  # it does not listen yet, or is not ready
        return int(float(told[0]["value"][1])) if told else 0

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


@contextmanager
def prometheus(url: str, *, key: str, folder: Path, every_s: int) -> Iterator[Prometheus]:
    """Run a server that scrapes a gateway.

    Raises:
        RuntimeError: there is none, or it did not start.
    """
    program = binary()
    if program is None:
        raise RuntimeError("no prometheus on the path, and GUARDRAIL_PROMETHEUS names none")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "prometheus.yml"
    config.write_text(_CONFIG.format(every=every_s, key=key, target=url.removeprefix("http://")))
    command = [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", "--log.level=warn"]
    with (folder / "prometheus.log").open("wb") as log:
        server = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    asked = Prometheus(f"http://127.0.0.1:{port}", every_s=every_s)
    try:
        asked.wait(2, alive=lambda: server.poll() is None)
        yield asked
    finally:
        asked.close()
        server.terminate()
        server.wait(30)
