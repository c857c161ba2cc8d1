"""What is known of other packages' errors: which come in place of an answer, and which are made to quote text.

Known by name, as none of these packages is imported for this: the top package of a class, and its name.
"""

from __future__ import annotations

import asyncio
from json import JSONDecodeError

from langchain_core.exceptions import OutputParserException
from pydantic import ValidationError

_SDKS = (
    "anthropic", "cerebras", "cohere", "fireworks", "groq", "huggingface_hub", "litellm", "mistralai", "ollama",
    "openai", "together",
)  # fmt: skip
"""Packages of providers: a ``status_code`` elsewhere is the application's, and its error says what it likes."""

_LOST = (
    "APIConnectionError", "APITimeoutError", "NoResponseError", "ServiceUnavailableError", "BadGatewayError",
    "InternalServerError", "RateLimitError", "Timeout",
)  # fmt: skip
_NO_ANSWER = frozenset(
    {f"{sdk}.{name}" for sdk in _SDKS for name in _LOST}
    | {f"{sdk}.APIError" for sdk in ("anthropic", "cerebras", "groq", "openai", "together")}
    | {"httpx.TransportError", "httpx2.TransportError", "aiohttp.ClientConnectionError", "aiohttp.ClientPayloadError"}
    | {"google.ServerError", "google.RetryError", "langgraph.NodeTimeoutError"}
)
_ADDRESSED = frozenset(
    {
        "requests.ConnectionError", "requests.Timeout", "requests.ChunkedEncodingError", "botocore.HTTPClientError",
        "botocore.ConnectionError",
    }
)  # fmt: skip
"""No answer came either, but these quote the address, and a model may have written a part of that."""

_RETRIED = frozenset({401, 403, 404, 408, 409, 425, 429})
"""Statuses below 500 whose errors tell of the call, not of its content."""

_QUOTING = frozenset(
    f"{sdk}.{name}" for sdk in _SDKS for name in ("LengthFinishReasonError", "APIResponseValidationError")
)
_QUOTING_WORDS = ("failed_generation", "error parsing tool call")
"""Groq's and Ollama's errors about a tool call that they could not read go on with the call."""


def named(error: BaseException, names: frozenset[str]) -> bool:
    """Tell whether an error is of one of the kinds ``package.Name``, or made from one."""
    return any(f"{_package(kind)}.{kind.__name__}" in names for kind in type(error).__mro__)


def no_answer(error: BaseException) -> bool:
    """Tell whether an error is of a kind that comes in place of an answer."""
    status = _status(error)
    # A provider that fails in the middle of a stream has said 200 before.
    if status is not None and not 200 <= status < 300:
        return status in _RETRIED or status >= 500
    kinds = (TimeoutError, asyncio.TimeoutError, ConnectionError, RecursionError)
    return isinstance(error, kinds) or named(error, _NO_ANSWER) or named(error, _ADDRESSED)


def quotes(error: BaseException) -> bool:
    """Tell whether an error is of a kind that is made to quote text."""
    if any(quotes(one) for one in members(error)):
        return True
    if isinstance(error, OutputParserException | ValidationError | JSONDecodeError) or named(error, _QUOTING):
        return True
    told = f"{error} {getattr(error, 'body', '')}"
    return any(word in told for word in _QUOTING_WORDS)


def members(error: BaseException) -> list[BaseException]:
    """Return the errors of a group, by shape: Python 3.10 has no class for it."""
    inner = getattr(error, "exceptions", ())
    return [one for one in inner if isinstance(one, BaseException)] if isinstance(inner, tuple | list) else []


def strip(error: BaseException) -> None:
    """Take from an error that comes in place of an answer what was written onto it: notes, an address."""
    if hasattr(error, "__notes__"):
        del error.__notes__
    if named(error, _ADDRESSED):
        error.args = ("no answer came: the connection failed, or took too long",)
        for name, value in list(vars(error).items()):
            setattr(error, name, {} if isinstance(value, dict) else None)


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that a provider's own error carries; those of HTTP clients quote the address."""
    status = None
    if any(_package(kind) in _SDKS for kind in type(error).__mro__):
        status = getattr(error, "status_code", None)
    elif named(error, frozenset({"google.GoogleAPICallError", "google.APIError"})):
        status = getattr(error, "code", None)
    elif named(error, frozenset({"botocore.ClientError"})):
        response = getattr(error, "response", {})
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    return int(status) if isinstance(status, int) else None


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]
