"""Structured logs: one JSON object per line, and an observer that writes decisions and requests to them."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TextIO

from guardrail_plugin.observe.event import RailEvent, RequestEvent

_ASYNCIO = "asyncio"

FIELDS = "guardrail_fields"
"""Attribute of a log record under which its fields are."""


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object: time, level, logger, message, and the fields of ``LogObserver``.

    Of an exception its type is written, not its message or traceback: these may quote what users wrote. So may
    asyncio's messages, which show tasks with their results and errors, from the second line on or, in debug mode, in
    their arguments: of these the first line is written, arguments left out.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        message = str(record.msg).partition("\n")[0] if record.name == _ASYNCIO else record.getMessage()
        line: dict[str, object] = {
            "at": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__
        fields = getattr(record, FIELDS, None)
        if isinstance(fields, dict):
            line.update(fields)
        return json.dumps(line, default=str)


def log_json(*, level: int = logging.INFO, stream: TextIO | None = None) -> logging.Handler:
    """Send the library's, the servers' and asyncio's logs to a stream (stderr) as JSON lines. Returns the handler."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in ("guardrail_plugin", "guardrail_gateway", "uvicorn", _ASYNCIO):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
    return handler


class LogObserver:
    """An observer that logs requests, and rails that did anything but allow. Fields only."""

    def __init__(self, *, logger: logging.Logger | None = None, every_rail: bool = False) -> None:
        """Build it. ``every_rail``: also log what was allowed. ``logger``: ``None``: ``guardrail_plugin.rails``."""
        self._logger = logger or logging.getLogger("guardrail_plugin.rails")
        self._every_rail = every_rail

    def rail(self, event: RailEvent) -> None:
        """Log a decision."""
        if not self._every_rail and event.action == "allow" and event.error is None:
            return
        level = logging.WARNING if event.error is not None else logging.INFO
        self._logger.log(level, "%s rail: %s", event.rail, event.action, extra={FIELDS: event.as_dict()})

    def request(self, event: RequestEvent) -> None:
        """Log a finished request."""
        fields: dict[str, object] = {
            "operation": event.operation,
            "status": event.status,
            "seconds": round(event.seconds, 6),
            "model": event.model,
            "streamed": event.streamed,
            "first_chunk_s": event.first_chunk_s,
            "upstream_s": event.upstream_s,
            "input_tokens": event.input_tokens,
            "output_tokens": event.output_tokens,
            "finish_reasons": list(event.finish_reasons),
            "error": event.error,
            "request_id": event.request_id,
            "caller": event.caller,
        }
        level = logging.INFO if event.status < 500 else logging.WARNING
        self._logger.log(level, "%s %s", event.operation, event.status, extra={FIELDS: fields})
