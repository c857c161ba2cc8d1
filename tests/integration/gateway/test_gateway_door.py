"""Who may come in, with how much, and how fast: right statuses, and a server that goes on serving."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai
import pytest

from guardrail_gateway import GatewaySettings, create_app, read_keys
from guardrail_gateway import app as app_room
from guardrail_gateway.limits import Limits
from guardrail_gateway.testing import Script, ScriptedUpstream, serving
from guardrail_plugin.observe import RailEvent, RequestEvent
from guardrail_plugin.testing import allow_all

KEY, OTHER = "alpha-0123456789abcdef", "beta-0123456789abcdef"
CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def behind() -> Iterator[tuple[ScriptedUpstream, str]]:
    scripted = ScriptedUpstream()
    with serving(scripted.app) as url:
        yield scripted, f"{url}/v1"


@pytest.fixture(scope="module")
def settings(behind: tuple[ScriptedUpstream, str]) -> GatewaySettings:
    return GatewaySettings(
        upstream=behind[1],
        upstream_key="the-gateways-own-key",
        port=0,
        keys=read_keys([f"alice:{KEY}", f"bob:{OTHER}"]),
        max_body_bytes=500_000,
    )


@pytest.fixture(scope="module")
def door(settings: GatewaySettings) -> Iterator[str]:
    with serving(create_app(settings, guardian=allow_all()), settings) as url:
        yield url


@pytest.fixture(scope="module")
def hasty(settings: GatewaySettings) -> Iterator[str]:
    """A gateway that does not wait for slow clients. On a busy machine every client may be one."""
    told = replace(settings, header_timeout_s=0.5, body_timeout_s=0.5)
    with serving(create_app(told, guardian=allow_all()), told) as url:
        yield url


@pytest.fixture
def http(door: str) -> Iterator[httpx2.Client]:
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx2.Client(base_url=door, headers=headers, timeout=120.0, trust_env=False) as made:
        yield made
        # Whatever was done to it, it serves the next one.
        assert made.post(CHAT, json=HELLO).status_code == 200


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        ("", "missing_api_key"),
        ("Bearer", "missing_api_key"),
        (KEY, "missing_api_key"),
        ("Bearer wrong-0123456789abcdef", "invalid_api_key"),
        (f"Bearer {KEY}x", "invalid_api_key"),
        (f"Bearer {KEY[:-1]}", "invalid_api_key"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/moderations", "/v1/models", "/metrics", "/v1/nowhere"])
def test_without_a_known_key_nothing_is_served(
    http: httpx2.Client, behind: tuple[ScriptedUpstream, str], authorization: str, code: str, path: str
) -> None:
    before = len(behind[0].bodies)
    answer = http.request(
        "GET" if "models" in path or "metrics" in path else "POST",
        path,
        headers={"authorization": authorization},
        content=json.dumps(HELLO),
    )
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == code
    assert len(behind[0].bodies) == before


def test_the_openai_client_with_a_wrong_key(door: str) -> None:
    with (
        openai.OpenAI(base_url=f"{door}/v1", api_key="wrong-0123456789abcdef", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.chat.completions.create(**HELLO)


def test_the_clients_key_stays_at_the_door(http: httpx2.Client, behind: tuple[ScriptedUpstream, str]) -> None:
    assert http.post(CHAT, json=HELLO).status_code == 200
    assert behind[0].headers[-1]["authorization"] == "Bearer the-gateways-own-key"
    assert KEY not in json.dumps(behind[0].headers[-1])


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_needs_no_key(http: httpx2.Client, path: str) -> None:
    assert http.get(path, headers={"authorization": ""}).status_code == 200


@pytest.mark.parametrize("host", ["rebound.example", "rebound.example:8100", "127.0.0.1.evil.example", "10.0.0.7"])
@pytest.mark.parametrize("path", [CHAT, "/metrics", "/healthz", "/v1/models"])
def test_a_page_that_rebinds_its_name_is_turned_away(http: httpx2.Client, host: str, path: str) -> None:
    answer = http.request("POST" if path == CHAT else "GET", path, headers={"host": host}, content=json.dumps(HELLO))
    assert (answer.status_code, answer.json()["error"]["code"]) == (421, "host_not_allowed")
    assert "--allowed-host" in answer.json()["error"]["message"]
    assert host not in answer.text


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1", "127.0.0.1", "127.1.2.3:80", "[::1]:8100", "app.localhost."]
)
def test_this_machines_own_names(http: httpx2.Client, host: str) -> None:
    assert http.post(CHAT, json=HELLO, headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "hosts", [b"", b"host:\r\n", b"host: a b\r\n", b"host: localhost\r\nhost: rebound.example\r\n", b"host: @\r\n"]
)
def test_a_request_that_names_no_one_host(http: httpx2.Client, door: str, hosts: bytes) -> None:
    assert raw(door, b"GET /healthz HTTP/1.1\r\n" + hosts + b"\r\n").startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b"{", 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b'"text"', 400, "invalid_json"),
        (b'{"messages": [{"role": "user", "content": NaN}]}', 400, "invalid_json"),
        (b"\xff\xfe", 400, "invalid_json"),
        (b"[" * 100_000, 400, "invalid_json"),
        (b'{"messages": ' + b"[" * 400 + b"]" * 400 + b"}", 400, "invalid_value"),
        (b"{}", 400, "invalid_value"),
        (b'{"messages": []}', 400, "invalid_value"),
        (b'{"messages": "hi"}', 400, "invalid_value"),
        (b'{"messages": [{"role": "user", "content": "hi"}], "stream": "yes"}', 400, "invalid_value"),
        (b'{"messages": [{"role": "user", "content": "hi"}], "n": 1000000}', 400, "invalid_value"),
        (b'{"messages": [{"role": "user", "content": "hi"}], "Messages": []}', 400, "ambiguous_key"),
        ('{"messages": [{"role": "user", "content": "hi", "Ro\u006ce": "x"}]}'.encode(), 400, "ambiguous_key"),
        ('{"messages": [{"role": "user", "content": "hi"}], "me\u017f\u017fages": []}'.encode(), 400, "ambiguous_key"),
        (b'{"messages": [17]}', 422, "unreadable_input"),
        (b'{"messages": [{"no": "role"}]}', 422, "unreadable_input"),
    ],
)
def test_malformed_bodies(http: httpx2.Client, content: bytes, status: int, code: str) -> None:
    answer = http.post(CHAT, content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_of_two_equal_keys_the_upstream_sees_the_judged_one(
    http: httpx2.Client, behind: tuple[ScriptedUpstream, str]
) -> None:
    turns = '"messages": [{"role": "user", "content": "first"}], "messages": [{"role": "user", "content": "second"}]'
    twice = f'{{"model": "m", {turns}}}'
    assert http.post(CHAT, content=twice, headers={"content-type": "application/json"}).status_code == 200
    assert behind[0].bodies[-1]["messages"] == [{"role": "user", "content": "second"}]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_other_content_types(http: httpx2.Client, kind: str) -> None:
    answer = http.post(CHAT, content=json.dumps(HELLO), headers={"content-type": kind})
    assert answer.status_code == 415


def test_a_huge_body(http: httpx2.Client) -> None:
    huge = json.dumps({"messages": [{"role": "user", "content": "a" * 600_000}]}).encode()
    declared = http.post(CHAT, content=huge, headers={"content-type": "application/json"})
    assert declared.status_code == 413
    pieces = (huge[at : at + 10_000] for at in range(0, len(huge), 10_000))
    chunked = http.post(CHAT, content=pieces, headers={"content-type": "application/json"})
    assert chunked.status_code == 413
    assert chunked.json()["error"]["code"] == "body_too_large"


@pytest.mark.parametrize("size", [3, 9_999])
def test_long_histories(http: httpx2.Client, behind: tuple[ScriptedUpstream, str], size: int) -> None:
    turns = [{"role": ("user", "assistant")[n % 2], "content": "a"} for n in range(size)]
    assert http.post(CHAT, json={"messages": turns}).status_code == 200
    assert len(behind[0].bodies[-1]["messages"]) == size


def test_unknown_paths_and_methods(http: httpx2.Client) -> None:
    assert http.get("/v1/nowhere").json()["error"]["code"] == "not_found"
    wrong = http.get(CHAT)
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")


def test_cors_is_off(http: httpx2.Client) -> None:
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    answer = http.options(CHAT, headers=asked)
    assert answer.status_code == 405
    assert "access-control-allow-origin" not in answer.headers


def test_cors_lets_official_clients_in_from_the_origins_that_are_named(settings: GatewaySettings) -> None:
    told = replace(settings, cors_origins=("https://app.example",))
    asked = {
        "origin": "https://app.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,openai-beta,x-stainless-lang,x-stainless-os",
    }
    with (
        serving(create_app(told, guardian=allow_all()), told) as url,
        httpx2.Client(base_url=url, timeout=120.0, trust_env=False) as made,
    ):
        answer = made.options(CHAT, headers=asked)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "access-control-allow-credentials" not in answer.headers
        other = made.options(CHAT, headers={**asked, "origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


def raw(url: str, sent: bytes) -> bytes:
    """Send bytes, then nothing more; return all that comes until the server closes."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port), timeout=20.0) as connection:
        connection.sendall(sent)
        said = b""
        while piece := connection.recv(65_536):
            said += piece
        return said


JSON = "content-type: application/json\r\n"
HEAD = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\n{JSON}".encode()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", b"408"),
        (b"POST /v1/chat", b"408"),
        (HEAD, b"408"),
        (HEAD + b"content-length: 100\r\n\r\n{", b"408"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n", b"408"),
        (HEAD + b"x: " + b"a" * 80_000, b"431"),
        (b"\x16\x03\x01nonsense\r\n\r\n", b"400"),
    ],
    ids=["silence", "half a line", "half a head", "half a body", "half a chunk", "endless head", "no http"],
)
def test_slow_and_broken_clients(hasty: str, sent: bytes, status: bytes) -> None:
    assert raw(hasty, sent).startswith(b"HTTP/1.1 " + status)
    assert serves(hasty)


def serves(hasty: str) -> bool:
    """Whether it answers a whole request; asked again where this machine was too slow to send one in time."""
    content = json.dumps(HELLO).encode()
    asked = HEAD + f"connection: close\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content
    said = (raw(hasty, asked).split(b" ", 2)[1] for _ in range(10))
    return next((status for status in said if status != b"408"), b"408") == b"200"


OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n"


@pytest.mark.parametrize("pieces", [1, 2], ids=["at once", "body later"])
def test_an_offer_of_another_protocol_is_ignored(door: str, pieces: int) -> None:
    content = json.dumps(HELLO).encode()
    where = urlsplit(door)
    with socket.create_connection((where.hostname, where.port), timeout=60.0) as connection:
        for last in (False, True):  # the connection stays, and takes the next one
            offer = OFFER.replace(b"Upgrade,", b"Upgrade, close,") if last else OFFER
            head = HEAD + offer + f"content-length: {len(content)}\r\n\r\n".encode()
            for sent in [head + content] if pieces == 1 else [head, content]:
                connection.sendall(sent)
            said = b""
            while not said.endswith(b"}") and (piece := connection.recv(65_536)):
                said += piece
            assert said.startswith(b"HTTP/1.1 200")
            assert json.loads(said.partition(b"\r\n\r\n")[2])["choices"]
        assert connection.recv(1) == b"", "closed, as asked"


def test_offers_without_end_are_refused(door: str) -> None:
    offer = b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + OFFER + b"\r\n"
    assert b"HTTP/1.1 400" in raw(door, offer * 20)


def test_nobody_tunnels_through(door: str) -> None:
    assert raw(door, b"CONNECT example.org:443 HTTP/1.1\r\nhost: example.org\r\n\r\n").startswith(b"HTTP/1.1 400")


def test_many_slow_clients_do_not_keep_others_out(hasty: str) -> None:
    where = urlsplit(hasty)
    slow = [socket.create_connection((where.hostname, where.port), timeout=20.0) for _ in range(100)]
    try:
        for connection in slow:
            connection.sendall(HEAD)
        assert serves(hasty)
        for connection in slow:
            assert connection.recv(65_536).startswith(b"HTTP/1.1 408")
    finally:
        for connection in slow:
            connection.close()


class Ends:
    """An observer that tells when a request has ended."""

    def __init__(self) -> None:
        self.happened = threading.Event()
        self.error: str | None = None

    def rail(self, event: RailEvent) -> None:
        """Nothing to note."""

    def request(self, event: RequestEvent) -> None:
        """Note the end."""
        self.error = event.error
        self.happened.set()


def test_a_client_that_does_not_read_is_cut_off(behind: tuple[ScriptedUpstream, str]) -> None:
    ends = Ends()
    settings = GatewaySettings(upstream=behind[1], port=0, write_timeout_s=0.5, rails=("input",))
    behind[0].script = Script(deltas=["word " * 10_000] * 200)
    try:
        with (
            serving(create_app(settings, guardian=allow_all(), observers=[ends]), settings) as url,
            socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=20.0) as connection,
        ):
            content = json.dumps({**HELLO, "stream": True}).encode()
            connection.sendall(HEAD + f"content-length: {len(content)}\r\n\r\n".encode() + content)
            assert ends.happened.wait(60.0)
            assert ends.error == "client_gone"
            assert httpx2.post(f"{url}{CHAT}", json={**HELLO, "n": 0}, trust_env=False, timeout=20.0).status_code == 400
    finally:
        behind[0].script = Script()


@pytest.fixture
def narrow(behind: tuple[ScriptedUpstream, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A gateway of few requests, for which no time passes: no request is given back."""
    monkeypatch.setattr(app_room, "Limits", partial(Limits, clock=lambda: 0.0))
    keys = read_keys([f"alice:{KEY}", f"bob:{OTHER}"])
    settings = GatewaySettings(
        upstream=behind[1], port=0, keys=keys, max_concurrent_per_key=1, requests_per_minute=3, drain_s=1.0
    )
    with serving(create_app(settings, guardian=allow_all()), settings) as url:
        yield url


def test_limits_are_per_key(narrow: str, behind: tuple[ScriptedUpstream, str]) -> None:
    def ask(key: str) -> httpx2.Response:
        headers = {"authorization": f"Bearer {key}"}
        return httpx2.post(f"{narrow}{CHAT}", json=HELLO, headers=headers, trust_env=False, timeout=20.0)

    behind[0].script = Script(hang_after=1)
    headers = {"authorization": f"Bearer {KEY}"}
    try:
        with (
            httpx2.Client(base_url=narrow, headers=headers, trust_env=False, timeout=20.0) as http,
            http.stream("POST", CHAT, json={**HELLO, "stream": True}) as answer,
        ):
            assert answer.status_code == 200
            behind[0].script = Script()
            refused = ask(KEY)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "concurrency_limit_exceeded")
            assert refused.headers["retry-after"] == "1"
            assert ask(OTHER).status_code == 200
    finally:
        behind[0].script = Script()
    statuses = [ask(OTHER).status_code for _ in range(4)]
    assert statuses == [200, 200, 429, 429]
    last = ask(OTHER)
    assert last.json()["error"]["code"] == "rate_limit_exceeded"
    assert last.headers["retry-after"] == "20"
