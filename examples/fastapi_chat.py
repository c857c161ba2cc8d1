"""A guarded chat endpoint in FastAPI: one pool for the guardian and the model, answers whole and streamed.

Needs the extras ``local`` and ``fastapi``, and uvicorn. Run: uvicorn fastapi_chat:app --app-dir examples
Then: curl -N 127.0.0.1:8000/chat/stream --json '{"question": "Name three colours."}'
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI, Response
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from pydantic import BaseModel

from guardrail_fastapi import Guardrail, guardrail, guardrail_lifespan
from guardrail_plugin.runnables.chat_model import PoolChatModel

app = FastAPI(lifespan=guardrail_lifespan())  # policy="policy.toml": read, watched, swapped while it runs
Rail = Annotated[Guardrail, Depends(guardrail)]


class Chat(BaseModel):
    question: str


def chain(rail: Guardrail) -> Runnable[dict[str, str], str]:
    """Put any chain here; this one runs on the guardian's own pool."""
    if rail.service.pool is None:
        raise RuntimeError("the guardian brings its own pool")
    prompt = ChatPromptTemplate.from_messages([("user", "{question}")])
    return prompt | PoolChatModel(pool=rail.service.pool, max_tokens=60) | StrOutputParser()


@app.post("/chat")
async def chat(body: Chat, rail: Rail) -> dict[str, str]:
    return {"answer": await rail.reply(chain(rail), {"question": body.question}, rails=("input", "output"))}


@app.post("/chat/stream")
async def stream(body: Chat, rail: Rail) -> Response:
    return await rail.sse(chain(rail), {"question": body.question}, rails=("input", "output"))


@app.post("/check")
async def check(body: Chat, rail: Rail) -> dict[str, object]:
    return (await rail.check(body.question)).as_dict()
