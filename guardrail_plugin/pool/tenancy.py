"""On whose account the pool works: said once around a call, known to every request that the call makes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from guardrail_plugin.core.errors import ConfigError

_tenant: ContextVar[str] = ContextVar("guardrail_pool_tenant", default="")


@contextmanager
def on_behalf_of(tenant: str) -> Iterator[None]:
    """Let everything in this block run on a tenant's account: guardians, guarded chains, chat models.

    Tenants that have work waiting get equal shares of the pool, in tokens, however much each has sent; one that floods
    the queue is turned away before the others are. Everything outside such blocks is one tenant more, named "".

        with on_behalf_of(api_key_id):
            await safe.ainvoke(question)

    The block holds for this task and for tasks and threads that copy its context (asyncio and LangChain do).

    Raises:
        ConfigError: the name is not a string.
    """
    token = _tenant.set(check_tenant(tenant))
    try:
        yield
    finally:
        _tenant.reset(token)


def current_tenant() -> str:
    """Return on whose account this code runs."""
    return _tenant.get()


def check_tenant(tenant: str) -> str:
    """Return the name if it is one.

    Raises:
        ConfigError: it is not a string. The message does not show it.
    """
    if not isinstance(tenant, str):
        raise ConfigError(f"a tenant is named by a string, got a {type(tenant).__name__}")
    return tenant
