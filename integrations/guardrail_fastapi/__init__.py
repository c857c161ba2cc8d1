"""Guardrails in a FastAPI or Starlette application.

app = FastAPI(lifespan=guardrail_lifespan(policy="policy.toml"))

@app.post("/chat")
async def chat(body: Chat, rail: Guardrail = Depends(guardrail)) -> dict[str, str]:
    return {"answer": await rail.reply(chain, {"question": body.question})}
"""

from __future__ import annotations

from guardrail_plugin import MissingDependencyError

try:
    from guardrail_fastapi.connection import ClientGone, while_connected
    from guardrail_fastapi.dependency import Guardrail, as_http_errors, guardrail
    from guardrail_fastapi.errors import HttpError, http_error
    from guardrail_fastapi.lifespan import guardrail_lifespan
    from guardrail_fastapi.middleware import GuardrailMiddleware
    from guardrail_fastapi.policy_file import PolicySource, PolicyState
    from guardrail_fastapi.service import GuardrailService, open_service
    from guardrail_fastapi.sse import SseResponse
except ModuleNotFoundError as error:
    if str(error.name).partition(".")[0] not in ("fastapi", "starlette"):
        raise
    raise MissingDependencyError(str(error.name), extra="fastapi") from None

__all__ = [
    "ClientGone",
    "Guardrail",
    "GuardrailMiddleware",
    "GuardrailService",
    "HttpError",
    "PolicySource",
    "PolicyState",
    "SseResponse",
    "as_http_errors",
    "guardrail",
    "guardrail_lifespan",
    "http_error",
    "open_service",
    "while_connected",
]
