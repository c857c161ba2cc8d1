"""Who is calling: bearer keys, compared in constant time."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import sha256

from guardrail_gateway.problems import Problem
from guardrail_gateway.settings import ApiKey

ANYONE = "anyone"
"""The caller's name where no keys are asked for."""


def bearer(authorization: str) -> str:
    """Return the key in an ``Authorization`` header, or an empty string."""
    scheme, _, key = authorization.strip().partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def caller(authorization: str, keys: Sequence[ApiKey]) -> str:
    """Return the caller's name.

    Raises:
        Problem: 401, there is no key or it is not known. Both take the same time as a known one.
    """
    if not keys:
        return ANYONE
    key = bearer(authorization)
    digest = sha256(key.encode("utf-8", "surrogatepass")).digest()
    found = ""
    for known in keys:
        # All are compared, whichever matches.
        if hmac.compare_digest(known.sha256, digest):
            found = known.name
    if found:
        return found
    code, told = ("invalid_api_key", "not known") if key else ("missing_api_key", "missing")
    raise Problem(401, code, f"The API key is {told}.", headers={"WWW-Authenticate": "Bearer"}, close=True)
