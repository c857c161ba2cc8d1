"""The page's routes, and the last verdicts that it shows."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from importlib import resources
from itertools import islice

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from guardrail_gateway.gateway import gateway_of
from guardrail_gateway.intake import PLAYGROUND, PLAYGROUND_SCRIPT, PLAYGROUND_STYLE
from guardrail_gateway.playground.asking import ask
from guardrail_gateway.problems import bad_request
from guardrail_plugin import ConfigError
from guardrail_plugin.observe import RailEvent, RequestEvent
from guardrail_plugin.pool.stats import PoolStats

_FILES: Mapping[str, tuple[str, str]] = {
    PLAYGROUND: ("page.html", "text/html; charset=utf-8"),
    PLAYGROUND_STYLE: ("page.css", "text/css; charset=utf-8"),
    PLAYGROUND_SCRIPT: ("page.js", "text/javascript; charset=utf-8"),
}
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}
_NOT_KEPT = {"cache-control": "no-store"}


class Playground:
    """The page at ``/playground``. It is also the observer that fills the page's list of verdicts: pass it as both.

        playground = Playground()
        app = create_app(settings, observers=[playground], pages=playground.pages)

    The page itself holds nothing secret and is served without a key; what it asks for goes through the gateway's keys
    and limits. While it is looked at, the list asks every three seconds: that counts towards a key's rate.

    Args:
        keep: verdicts that the list goes back. They are numbers and words, never text.
        show_held: **developers only**: send text that the output rail has blocked to the page, too.

    Raises:
        ConfigError: ``keep`` is less than 1.
    """

    def __init__(self, *, keep: int = 50, show_held: bool = False) -> None:
        if keep < 1:
            raise ConfigError(f"keep must be 1 or more, got {keep}")
        self._last: deque[dict[str, object]] = deque(maxlen=keep)
        self._number = 0
        self._show_held = show_held
        self.pages: tuple[BaseRoute, ...] = (
            *(_file(path, *told) for path, told in _FILES.items()),
            Route(f"{PLAYGROUND}/ask", self._ask, methods=["POST"]),
            Route(f"{PLAYGROUND}/live", self._live, methods=["GET"]),
            Route(f"{PLAYGROUND}/about", self._about, methods=["GET"]),
        )

    def rail(self, event: RailEvent) -> None:
        """Keep what the list shows of a decision."""
        self._number += 1
        self._last.append(
            {
                "number": self._number,
                "at_s": round(event.ended_at_s, 3),
                "rail": event.rail,
                "action": event.action,
                "hazard": event.hazard if event.harmful else None,
                "risk": None if event.risk is None else round(event.risk, 4),
                "seconds": round(event.seconds, 4),
                "error": event.error,
            }
        )

    def request(self, event: RequestEvent) -> None:
        """Do nothing: the list is of decisions."""

    async def _ask(self, request: Request) -> Response:
        return await ask(request, show_held=self._show_held)

    async def _live(self, request: Request) -> Response:
        after = request.query_params.get("after", "0")
        if not after.isascii() or not after.isdecimal():
            raise bad_request("after must be a number.", param="after")
        # A page that has outlived a restart knows higher numbers than there are: it is told all.
        news = self._number - int(after) if int(after) <= self._number else self._number
        kept = min(news, len(self._last))
        gateway = gateway_of(request)
        pool = gateway.service.pool
        told = {
            "last": self._number,
            "verdicts": list(islice(self._last, len(self._last) - kept, None)),
            "running": max(gateway.limits.running - 1, 0),  # this request is one
            "refused": gateway.limits.refused,
            "unready": gateway.service.unready(),
            "pool": None if pool is None else _load(pool.stats()),
        }
        return JSONResponse(told, headers=_NOT_KEPT)

    async def _about(self, request: Request) -> Response:
        gateway = gateway_of(request)
        service, settings = gateway.service, gateway.settings
        told = {
            "guardian": service.guardian.id,
            "policy": service.policy.version,
            "hazards": {hazard.code: hazard.name for hazard in service.taxonomy},
            "rails": settings.rails,
            "window": settings.window,
            "release": settings.release,
            "embedded": settings.upstream is None,
            "shows_held": self._show_held,
        }
        return JSONResponse(told, headers=_NOT_KEPT)


def _file(path: str, name: str, kind: str) -> Route:
    content = resources.files("guardrail_gateway.playground").joinpath("static", name).read_bytes()

    async def show(request: Request) -> Response:
        return Response(content, headers={**_HEADERS, "content-type": kind})

    return Route(path, show, methods=["GET"])


def _load(now: PoolStats) -> dict[str, object]:
    return {
        "phase": now.phase,
        "queued": now.queued,
        "running": now.running,
        "completed": now.completed,
        "rejected": now.rejected,
        "wait_s": round(now.waits.mean, 4),
        "run_s": round(now.runs.mean, 4),
        "batch": round(now.mean_batch_size, 2),
        "slots": [{"device": slot.device, "phase": slot.phase} for slot in now.slots],
    }
