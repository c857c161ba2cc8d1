"""Which names a gateway answers to.

A web page can point its own host name at 127.0.0.1 (DNS rebinding): the browser then takes a gateway on loopback for
the page's own server, and hands it the answers. What it cannot do is send another ``Host`` than its own.
"""

from __future__ import annotations

import re

from starlette.datastructures import Headers

from guardrail_gateway.problems import Problem
from guardrail_gateway.settings import GatewaySettings, is_loopback

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?", re.ASCII)


class Hosts:
    """Checks the ``Host`` header.

    On a loopback address only names of this machine pass, and those in ``allowed_hosts``. On others every name does,
    unless ``allowed_hosts`` says which.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        allowed = tuple(name.lower() for name in settings.allowed_hosts)
        self._any = "*" in allowed or (not allowed and not is_loopback(settings.host))
        self._names = frozenset(name for name in allowed if not name.startswith("*"))
        self._ends = tuple(name[1:] for name in allowed if name.startswith("*."))

    def check(self, headers: Headers) -> None:
        """Look at a request's headers.

        Raises:
            Problem: 400 they do not name one host, 421 they name one that is not served here.
        """
        if self._any:
            return
        given = headers.getlist("host")
        read = _HOST.fullmatch(given[0]) if len(given) == 1 else None
        if read is None:
            raise Problem(400, "invalid_host", "The request must name one host in its Host header.", close=True)
        name = read["name"].strip("[]").rstrip(".").lower()
        local = is_loopback(name) or name.endswith(".localhost")
        if not (local or name in self._names or name.endswith(self._ends)):
            message = "The gateway does not serve this host name; allowed_hosts (--allowed-host NAME) says which."
            raise Problem(421, "host_not_allowed", message, close=True)
