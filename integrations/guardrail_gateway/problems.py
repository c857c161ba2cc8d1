"""Errors in OpenAI's form: ``{"error": {"message", "type", "param", "code"}}``. None of them holds user text."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

from guardrail_fastapi import http_error
from guardrail_plugin import GuardrailError

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    421: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}


class Problem(Exception):
    """What a client is told instead of an answer.

    Attributes:
        status: HTTP status.
        code: a word for programs.
        headers: ``Retry-After`` and the like.
        close: the connection cannot be used further.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.headers = {**(headers or {}), **({"connection": "close"} if close else {})}

    @classmethod
    def of(cls, error: GuardrailError) -> Problem:
        """Make it from an error of the library."""
        told = http_error(error)
        return cls(told.status, told.code, told.message, headers=told.headers)

    def as_dict(self) -> dict[str, object]:
        """Return the body."""
        kind = _TYPES.get(self.status, "api_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self, headers: Mapping[str, str] | None = None) -> JSONResponse:
        """Return it as a response."""
        return JSONResponse(self.as_dict(), status_code=self.status, headers={**self.headers, **(headers or {})})


def bad_request(message: str, *, param: str | None = None, code: str = "invalid_value") -> Problem:
    """Return a 400 that names what is wrong."""
    return Problem(400, code, message, param=param)
