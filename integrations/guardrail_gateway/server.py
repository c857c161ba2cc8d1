"""Run a gateway on uvicorn, with the limits that uvicorn itself lacks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import httptools
import uvicorn
from starlette.routing import BaseRoute
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from guardrail_fastapi import PolicySource
from guardrail_gateway.app import create_app
from guardrail_gateway.settings import GatewaySettings
from guardrail_plugin import ConfigError, Policy
from guardrail_plugin.core.dtype import Dtype
from guardrail_plugin.core.hazards import MLCOMMONS
from guardrail_plugin.core.settings import read_toml
from guardrail_plugin.guardian.protocol import GuardianProtocol, taxonomy_of
from guardrail_plugin.observe import Observer

logger = logging.getLogger("guardrail_gateway")

_MAX_HEADER_BYTES = 65_536
_KEEP_ALIVE_S = 75
"""Longer than clients and load balancers keep idle connections, so that they are the ones who close."""

_BACKLOG = 2048

_MAX_OFFERS = 16
"""Of another protocol, in one piece of data: each has it copied."""

_OFFERS = frozenset({b"upgrade", b"http2-settings"})


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with an end to its patience.

    Headers must come in time, and not without end. Who does not catch up in time with what it is sent is cut off.
    """

    header_timeout_s = 10.0
    write_timeout_s = 60.0
    _stuck: asyncio.TimerHandle | None = None
    _deadline: asyncio.TimerHandle | None = None
    _header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._relax()
        self._unstick()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for the client to take what it has been sent."""
        super().pause_writing()
        self._unstick()
        # Not close: that would wait for the client as well.
        self._stuck = self.loop.call_later(self.write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on."""
        self._unstick()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Take in data; refuse headers that do not end."""
        self._feed(data)
        if self._deadline is None:
            return
        self._header_bytes += len(data)
        if self._header_bytes > _MAX_HEADER_BYTES:
            self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        """Begin to wait for the rest of a request's headers."""
        self._expect()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop waiting; a request that offers another protocol is read anew without its offer."""
        if self.parser.should_upgrade():
            return
        self._relax()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End a request."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _feed(self, data: bytes) -> None:
        """Have data parsed. An offer to change to another protocol is ignored (RFC 9110, section 7.8).

        The parser stops at such an offer and takes the body for the other protocol's; JDK clients make it (h2c).
        """
        self._unset_keepalive_if_required()
        for _ in range(_MAX_OFFERS):
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                read = offer.args[0]
            except httptools.HttpParserError:
                break
            if self.parser.get_method() == b"CONNECT":
                break
            data = self._without_offer() + data[read:]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn sets it
        self._invalid()

    def _invalid(self) -> None:
        self.logger.warning("Invalid HTTP request received.")
        self.send_400_response("Invalid HTTP request received.")

    def _without_offer(self) -> bytes:
        """Return the head that has been parsed, without an offer of another protocol."""
        version = self.parser.get_http_version().encode("ascii")
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        for name, value in self.headers:
            if name == b"connection":
                words = [word.strip() for word in value.split(b",")]
                value = b", ".join(word for word in words if word.lower() not in _OFFERS)
            if name not in _OFFERS:
                lines.append(name + b": " + value)
        return b"\r\n".join([*lines, b"", b""])

    def _unstick(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _expect(self) -> None:
        self._relax()
        self._header_bytes = 0
        self._deadline = self.loop.call_later(self.header_timeout_s, self._refuse, b"408 Request Timeout")

    def _relax(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: bytes) -> None:
        self._relax()
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()


def server_for(app: ASGIApp, settings: GatewaySettings, *, log_config: dict[str, Any] | None = None) -> uvicorn.Server:
    """Return a server for an application: bounded headers, no server header, no access log (it is structured here)."""
    patience = {"header_timeout_s": settings.header_timeout_s, "write_timeout_s": settings.write_timeout_s}
    protocol = type("Protocol", (PatientProtocol,), patience)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=protocol,
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        log_config=log_config,
    )
    return uvicorn.Server(config)


def _check_policy(file: Path, guardian: GuardianProtocol | str | Path | None) -> None:
    """Tell what is wrong with a policy file here and not in a traceback of the start.

    Raises:
        ConfigError: it is not sound. Hazards of a guardian that has not been read yet are not looked at.
    """
    if isinstance(guardian, str | Path):
        Policy(**read_toml(file, what="policy file"))
    else:
        PolicySource(file, taxonomy=MLCOMMONS if guardian is None else taxonomy_of(guardian))


def serve(
    settings: GatewaySettings,
    *,
    guardian: GuardianProtocol | str | Path | None = None,
    policy: Policy | Path | None = None,
    devices: Sequence[str] | None = None,
    dtype: Dtype = "auto",
    observers: Iterable[Observer] = (),
    pages: Sequence[BaseRoute] = (),
) -> None:
    """Run a gateway until it is told to stop (SIGINT, SIGTERM). Requests in progress get ``drain_s`` to end.

    Raises:
        ConfigError: the policy file is not sound, the port is taken, or the start failed: the log tells why.
    """
    if isinstance(policy, Path):
        _check_policy(policy, guardian)
    app = create_app(
        settings, guardian=guardian, policy=policy, devices=devices, dtype=dtype, observers=observers, pages=pages
    )
    server = server_for(app, settings)
    try:
        server.run()
    except SystemExit:
        raise ConfigError(f"the gateway did not start on {settings.host}:{settings.port}; the log tells why") from None
    if not server.started:
        raise ConfigError("the gateway did not start; the log tells why")
