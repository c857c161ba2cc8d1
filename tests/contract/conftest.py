"""A small real OpenAI-compatible server: the tiny random model behind HTTP, on a free loopback port."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from guardrail_plugin.pool.protocol import Decode, GenerateRequest, Replica, ScoreRequest

Body = dict[str, Any]
Fault = Callable[[Body], "tuple[int, dict[str, str], bytes] | None"]
"""Told of each completion call; what it returns is sent instead of an answer. It may also block."""

VOCABULARY = tuple(range(259))
OWNERS = {"vllm": "vllm", "llama.cpp": "llamacpp", "plain": "somebody"}


class TinyServer:
    """``/v1/models`` and ``/v1/completions`` with prompt ids, log-probabilities and streams, in one server's manner.

    Attributes:
        fault: see ``Fault``.
        lists: the status with which the models are listed, or not.
        bodies: completion calls so far.
        most_at_once: the most completion calls that were in flight together.
    """

    def __init__(self, replica: Replica, *, dialect: str, port: int = 0) -> None:
        self.fault: Fault | None = None
        self.lists = 200
        self.bodies: list[Body] = []
        self.most_at_once = 0
        self.dialect = dialect
        self.replica = replica
        self.device = threading.Lock()
        self._at_once = 0
        self._port = port
        self._lines: set[socket.socket] = set()
        self._http: ThreadingHTTPServer | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def start(self) -> None:
        """Listen, at the same port as before."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                server._lines.add(self.connection)

            def finish(self) -> None:
                server._lines.discard(self.connection)
                with suppress(OSError):
                    super().finish()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

            def do_GET(self) -> None:
                told = {
                    "object": "list",
                    "data": [{"id": "m", "object": "model", "created": 0, "owned_by": OWNERS[server.dialect]}],
                }
                self.send(server.lists, {"content-type": "application/json"}, json.dumps(told).encode())

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                server.bodies.append(body)
                with server.device:
                    server._at_once += 1
                    server.most_at_once = max(server.most_at_once, server._at_once)
                try:
                    self.complete(body)
                except OSError:
                    self.close_connection = True  # the client has left
                finally:
                    with server.device:
                        server._at_once -= 1

            def complete(self, body: Body) -> None:
                fault = server.fault(body) if server.fault is not None else None
                if fault is not None:
                    self.send(*fault)
                elif body.get("stream"):
                    self.stream(body)
                else:
                    choices = [server.choice(ids, at, body) for at, ids in enumerate(server.prompts(body))]
                    self.answer(
                        {"id": "c", "object": "text_completion", "created": 0, "model": "m", "choices": choices}
                    )

            def stream(self, body: Body) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("connection", "close")
                self.end_headers()
                self.close_connection = True
                for choice in server.pieces(body):
                    chunk = {"id": "c", "object": "text_completion", "created": 0, "model": "m", "choices": [choice]}
                    self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
                    self.wfile.flush()
                self.wfile.write(b"data: [DONE]\n\n")

            def answer(self, told: Body) -> None:
                self.send(200, {"content-type": "application/json"}, json.dumps(told).encode())

            def send(self, status: int, headers: dict[str, str], content: bytes) -> None:
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

        class Listener(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                """Say nothing."""

        self._http = Listener(("127.0.0.1", self._port), Handler)
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.01,), name="tiny-server", daemon=True).start()

    def stop(self) -> None:
        """Die: listen no more, cut every connection."""
        http, self._http = self._http, None
        if http is not None:
            http.shutdown()
            http.server_close()
            for line in list(self._lines):
                with suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)

    def prompts(self, body: Body) -> list[tuple[int, ...]]:
        """Return the prompts of a call as ids; a text's bytes stand for themselves."""
        prompt = body["prompt"]
        if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
            prompt = [prompt]
        return [tuple(ord(c) for c in one) if isinstance(one, str) else tuple(one) for one in prompt]

    def choice(self, ids: tuple[int, ...], at: int, body: Body) -> Body:
        """Return one answer of one token with its alternatives."""
        with self.device:
            logprobs = self.replica.score([ScoreRequest("m", ids, VOCABULARY)])[0].logprobs
        best = max(VOCABULARY, key=lambda token: logprobs[token])
        shown = sorted(VOCABULARY, key=lambda token: -logprobs[token])[: body["logprobs"]]
        if self.dialect == "vllm":
            shown = list(dict.fromkeys([best, *body.get("logprob_token_ids", shown)]))
        return {"index": at, "text": chr(best), "finish_reason": "length", "logprobs": self.told(best, shown, logprobs)}

    def told(self, token: int, shown: list[int], logprobs: tuple[float, ...]) -> Body:
        """Return log-probabilities in this kind of server's form."""
        if self.dialect == "llama.cpp":
            top = [{"id": t, "token": chr(t), "bytes": [], "logprob": logprobs[t]} for t in shown]
            return {"content": [{"id": token, "token": chr(token), "logprob": logprobs[token], "top_logprobs": top}]}
        name = (lambda t: f"token_id:{t}") if self.dialect == "vllm" else chr
        return {
            "tokens": [name(token)],
            "token_logprobs": [logprobs[token]],
            "top_logprobs": [{name(t): logprobs[t] for t in shown}],
            "text_offset": [0],
        }

    def pieces(self, body: Body) -> Iterator[Body]:
        """Yield the pieces of a stream."""
        request = GenerateRequest(
            "m",
            self.prompts(body)[0],
            max_new_tokens=body["max_tokens"],
            stop_ids=frozenset(body.get("stop_token_ids", ())),
            temperature=body["temperature"],
            top_p=body["top_p"],
            top_k=body.get("top_k", 0),
            seed=body["seed"],
        )
        with self.device:
            decode = self.replica.start([request])
        while news := self.step(decode):
            for token in news:
                if token.token_id is not None:
                    told = self.told(token.token_id, [token.token_id], (0.0,) * len(VOCABULARY))
                    asked = body.get("logprobs") is not None
                    yield {
                        "index": 0,
                        "text": chr(token.token_id),
                        "finish_reason": None,
                        "logprobs": told if asked else None,
                    }
                if token.finish_reason is not None:
                    yield {"index": 0, "text": "", "finish_reason": token.finish_reason, "logprobs": None}

    def step(self, decode: Decode) -> Any:
        with self.device:
            return decode.step()


@pytest.fixture
def serve(request: pytest.FixtureRequest) -> Iterator[Callable[..., TinyServer]]:
    """Start servers, of the tiny model unless told of another; all are stopped at the end."""
    servers: list[TinyServer] = []

    def start(dialect: str = "vllm", *, replica: Replica | None = None) -> TinyServer:
        servers.append(TinyServer(replica or tiny_replica(request.getfixturevalue("tiny_base")), dialect=dialect))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def tiny_replica(folder: Path) -> Replica:
    from guardrail_plugin.models.load import load_causal_lm
    from guardrail_plugin.models.torch_generic import GenericEngine
    from guardrail_plugin.models.torch_replica import TorchReplica

    return TorchReplica(engine=GenericEngine(load_causal_lm(folder)))


class Ids:
    """A tokenizer whose tokens are written as the character with their number."""

    def prompt(self, token_ids: Sequence[int]) -> list[int]:
        return list(token_ids)

    def piece(self, token_id: int) -> str:
        return chr(token_id)

    def template(self, text: str, *, first: bool = False) -> list[int]:
        return [ord(c) for c in text]


@pytest.fixture
def codec() -> Ids:
    return Ids()


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Wait for something that no event tells of; fails after twenty seconds."""

    def wait(true: Callable[[], bool]) -> None:
        end = time.monotonic() + 20
        while not true():
            assert time.monotonic() < end, "it never came to be"
            time.sleep(0.005)

    return wait
