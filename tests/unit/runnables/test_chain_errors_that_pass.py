"""Which errors pass an output rail as they are: those that came in place of an answer, or before its first word."""

from __future__ import annotations

from functools import partial
from typing import Any

import httpx2
import openai
import pytest
import requests
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough, RunnablePick
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from guardrail_plugin import ChainError, InputError

from .failing_chains import (
    EVIL,
    MODEL,
    PATHS,
    Broken,
    OwnError,
    failing,
    holds,
    named,
    raised,
    safe,
    shown,
    status,
    while_parsing,
)

SPOKEN: dict[str, Exception] = {
    "429": status(429),
    "500": status(500),
    "time": TimeoutError("late"),
    "connection": ConnectionError("lost"),
    "HTTP": httpx2.ConnectError("lost"),
    "OpenAI's connection": openai.APIConnectionError(request=httpx2.Request("POST", "http://localhost")),
    "own": InputError("one of the library's own"),
}


TWO = ChatPromptTemplate.from_messages([("human", "{a} {b}")])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("case", SPOKEN)
async def test_what_came_in_place_of_an_answer_passes(case: str, path: str) -> None:
    error = SPOKEN[case]
    told = await raised(safe(MODEL | failing(lambda _: error)), path)
    assert (type(told), str(told)) == (type(error), str(error))


@pytest.mark.parametrize("cause", [False, True])
@pytest.mark.parametrize("path", PATHS)
async def test_an_error_that_passes_leaves_behind_what_it_came_from(path: str, cause: bool) -> None:
    recorder = RunCollectorCallbackHandler()
    chain = safe(MODEL | RunnableLambda(while_parsing(partial(status, 429), cause=cause)))
    error = await raised(chain, path, {"callbacks": [recorder]})
    assert isinstance(error, openai.RateLimitError)
    assert not holds(error)
    assert EVIL not in shown(recorder)


@pytest.mark.parametrize("path", PATHS)
async def test_before_a_word_everything_passes(path: str) -> None:
    early: dict[str, tuple[Runnable[Any, Any], type[Exception]]] = {
        "model": (Broken([]) | JsonOutputParser(), OwnError),
        "prompt": (TWO | MODEL, TypeError),
        "model inside a function": (RunnableLambda(lambda text: Broken([]).invoke(text)), OwnError),
        "bound": (TWO | MODEL.bind(stop=["x"]), TypeError),
        "fallbacks": (TWO | MODEL.with_fallbacks([TWO | MODEL]) | StrOutputParser(), TypeError),
        "many steps": ({"it": RunnablePassthrough()} | RunnablePassthrough.assign(x=TWO | MODEL) | TWO, KeyError),
        "picked": ({"it": RunnablePassthrough()} | RunnablePick("it") | TWO | MODEL, TypeError),
    }
    for case, (chain, kind) in early.items():
        error = await raised(safe(chain), path)
        assert isinstance(error, kind), (case, error)


async def test_retries_and_fallbacks_know_a_providers_error() -> None:
    tries: list[int] = []

    def ask(_: Any) -> str:
        tries.append(1)
        if len(tries) < 3:
            raise status(429)
        return "an answer"

    settings: dict[str, Any] = {"output_text": None, "output_type": str}
    retried = safe(RunnableLambda(ask), **settings).with_retry(
        retry_if_exception_type=(openai.RateLimitError,), wait_exponential_jitter=False, stop_after_attempt=3
    )
    assert retried.invoke("hi") == "an answer"
    tries.clear()
    other = safe(RunnableLambda(lambda _: "another"), **settings)
    chosen = safe(RunnableLambda(ask), **settings).with_fallbacks([other], exceptions_to_handle=(openai.APIError,))
    assert await chosen.ainvoke("hi") == "another"


def _client_error() -> Any:
    return named("HTTPClientError", module="botocore.exceptions")


ANTHROPIC = named("APIError", module="anthropic._exceptions")


LOST: dict[str, Any] = {
    "an overload in a stream": named("APIStatusError", module="anthropic._exceptions", base=ANTHROPIC, status_code=200),
    "Groq": named("APIConnectionError", module="groq._exceptions"),
    "Groq in a stream": named("APIError", module="groq._exceptions"),
    "Mistral": named("NoResponseError", module="mistralai.models.noresponseerror"),
    "Cohere's 503": named("ApiError", module="cohere.core.api_error", status_code=503),
    "Google's 503": named("APIError", module="google.genai.errors", code=503),
    "Bedrock": named("ReadTimeoutError", module="botocore.exceptions", base=_client_error()),
    "requests": requests.ConnectionError,
    "requests, time": requests.ReadTimeout,
    "aiohttp": named(
        "ServerDisconnectedError",
        module="aiohttp.client_exceptions",
        base=named("ClientConnectionError", module="aiohttp.client_exceptions"),
    ),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("case", LOST)
async def test_connections_of_all_clients_pass_without_what_was_written_onto_them(case: str, path: str) -> None:
    def lose(said: Any) -> Any:
        error = LOST[case]("lost" if "requests" not in case else f"no connection to http://localhost/{said.text}")
        error.__notes__ = [said.text]
        raise error from OwnError(said.text)

    error = await raised(safe(MODEL | RunnableLambda(lose)), path)
    assert type(error) is LOST[case]
    assert not holds(error)


@pytest.mark.parametrize("kind", ["APIError", "ClientError"])
async def test_a_client_error_of_a_provider_is_not_a_lost_connection(kind: str) -> None:
    refused = named(kind, module="google.genai.errors", base=named("APIError", module="google.genai.errors"), code=400)
    error = await raised(safe(MODEL | failing(refused)), "ainvoke")
    assert (type(error), holds(error)) == (ChainError, False)
