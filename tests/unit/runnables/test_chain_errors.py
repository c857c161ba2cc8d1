"""What a chain behind an output rail raises: never the unjudged answer, on no path and in no trace."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableLambda, RunnableParallel, RunnablePassthrough
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from guardrail_plugin import ChainError, InputError
from guardrail_plugin.runnables import guard, guard_model
from guardrail_plugin.testing import allow_all
from guardrail_plugin.testing.models import ScriptedModel

from .failing_chains import (
    EVIL,
    MODEL,
    PATHS,
    Answer,
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


class Status(Exception):
    """An application's error with a status, as FastAPI's."""

    status_code = 502


def noted(text: str) -> BaseException:
    error = OwnError()
    error.__notes__ = [text]
    return error


def reading(chunks: Iterator[Any]) -> Iterator[str]:
    for chunk in chunks:
        yield Path(chunk.text).read_text()


async def areading(chunks: AsyncIterator[Any]) -> AsyncIterator[str]:
    async for chunk in chunks:
        for text in reading(iter([chunk])):
            yield text


def unheard(_: Any) -> Any:
    raise OwnError(MODEL.invoke("hi", config={"callbacks": []}).text)


def elsewhere(_: Any) -> Any:
    with ThreadPoolExecutor() as threads:
        raise OwnError(threads.submit(MODEL.invoke, "hi").result().text)


PARSER = PydanticOutputParser(pydantic_object=Answer)


REQUEST = httpx2.Request("POST", "http://localhost/v1")


UNHEARD = RunnableLambda(lambda _: EVIL)


QUOTING: dict[str, tuple[Runnable[Any, Any], str]] = {
    "pydantic parser": (MODEL | RunnableLambda(PARSER.invoke), "OutputParserException"),
    "validation": (MODEL | (lambda said: Answer.model_validate_json(said.text)), "ValidationError"),
    "json": (MODEL | (lambda said: json.loads(said.text)), "JSONDecodeError"),
    "own error": (MODEL | RunnableLambda(failing(OwnError)), "OwnError"),
    "provider's 400": (MODEL | RunnableLambda(failing(lambda text: status(400, text))), "BadRequestError"),
    "no file of that name": (MODEL | (lambda said: Path(said.text).read_text()), "FileNotFoundError"),
    "a model that nobody hears": (UNHEARD | RunnableLambda(failing(ValueError)), "ValueError"),
    "a parser after one": (UNHEARD | RunnableLambda(PARSER.invoke), "OutputParserException"),
    "own error from a parser's": (MODEL | RunnableLambda(while_parsing(OwnError)), "OwnError"),
    "generator": (MODEL | RunnableGenerator(reading, areading), "FileNotFoundError"),
    "a rail inside": (guard(MODEL, guardian=allow_all(), rails=("output",)) | failing(OwnError), "OwnError"),
    "a model called without listeners": (RunnableLambda(unheard), "OwnError"),
    "a model called in a thread": (RunnableLambda(elsewhere), "OwnError"),
    "a function before a model": (RunnableLambda(lambda _: failing(OwnError)(EVIL)) | MODEL, "OwnError"),
    "a function before fallbacks": (
        RunnableLambda(lambda _: failing(OwnError)(EVIL)) | MODEL.with_fallbacks([MODEL]),
        "OwnError",
    ),
    "a function beside a model": (
        RunnablePassthrough(lambda _: failing(OwnError)(EVIL)) | MODEL.bind(stop=["x"]),
        "OwnError",
    ),
    "a function in a prompt": (
        ChatPromptTemplate([("human", "{a} {b}")], partial_variables={"a": lambda: failing(OwnError)(EVIL)}) | MODEL,
        "OwnError",
    ),
    "a status of one's own": (MODEL | RunnableLambda(failing(Status)), "Status"),
    "notes": (MODEL | RunnableLambda(failing(noted)), "OwnError"),
    "unreadable": (
        MODEL | failing(named("APIResponseValidationError", module="anthropic._exceptions", status_code=200)),
        "APIResponseValidationError",
    ),
    "Groq's 400 in a stream": (
        MODEL | failing(lambda text: openai.APIError("failed", REQUEST, body={"failed_generation": text})),
        "APIError",
    ),
    "Groq's 400": (UNHEARD | failing(lambda text: status(400, f"failed_generation: {text}")), "BadRequestError"),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("case", QUOTING)
async def test_what_may_quote_the_answer_becomes_a_chain_error(case: str, path: str) -> None:
    chain, kind = QUOTING[case]
    recorder = RunCollectorCallbackHandler()
    error = await raised(safe(chain), path, {"callbacks": [recorder]})
    assert isinstance(error, ChainError)
    assert error.kind == kind
    assert error.__context__ is None
    assert not holds(error)
    assert recorder.traced_runs
    assert "ChainError" in shown(recorder)
    assert EVIL not in shown(recorder)


@pytest.mark.parametrize("settings", [{"overlap": True}, {"overlap": True, "rails": ("input",)}])
@pytest.mark.parametrize("path", [path for path in PATHS if "batch" not in path])
async def test_beside_the_guardian_too(path: str, settings: dict[str, Any]) -> None:
    recorder = RunCollectorCallbackHandler()
    error = await raised(safe(QUOTING["pydantic parser"][0], **settings), path, {"callbacks": [recorder]})
    assert isinstance(error, ChainError)
    assert not holds(error)
    assert EVIL not in shown(recorder)


async def test_json_parsers_of_whole_answers() -> None:
    chain = safe(MODEL | JsonOutputParser())
    for path in ("invoke", "ainvoke", "batch", "abatch"):
        error = await raised(chain, path)
        assert (type(error), holds(error)) == (ChainError, False)


@pytest.mark.parametrize("path", ["batch", "abatch"])
async def test_each_input_has_its_own_error(path: str) -> None:
    prompt = ChatPromptTemplate.from_messages([("human", "{question}")])
    chain = safe(prompt | MODEL | JsonOutputParser(), input_key=str)
    work = getattr(chain, path)([{"question": "a"}, {"other": "b"}], return_exceptions=True)
    parsed, unasked = await work if path == "abatch" else work
    assert isinstance(parsed, ChainError)
    assert not holds(parsed)
    assert isinstance(unasked, KeyError)
    assert "question" in str(unasked)


async def test_a_guarded_model_tells_no_text_either() -> None:
    quoting = Broken([])
    quoting._error = Answer.model_validate_json
    for inner, kind in ((quoting, ChainError), (Broken([]), OwnError)):
        model = guard_model(inner, guardian=allow_all())
        for path in ("invoke", "ainvoke", "stream", "astream"):
            recorder = RunCollectorCallbackHandler()
            error = await raised(model, path, {"callbacks": [recorder]})
            assert isinstance(error, kind), path
            assert not holds(error)
            assert EVIL not in shown(recorder)


def test_without_the_output_rail_nothing_changes() -> None:
    with pytest.raises(OutputParserException):
        safe(MODEL | JsonOutputParser(), rails=("input",), output_text=None).invoke("hi")


def test_an_error_that_cannot_be_looked_at_is_withheld() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError(EVIL)

    with pytest.raises(ChainError) as caught:
        safe(RunnableLambda(failing(lambda _: Mute())) | MODEL).invoke("hi")
    assert caught.value.kind == "Mute"


def test_a_readers_error_holds_no_answer() -> None:
    with pytest.raises(InputError) as caught:
        safe(RunnableLambda(lambda _: EVIL), output_text=failing(ValueError)).invoke("hi")
    assert not holds(caught.value)


@pytest.mark.parametrize("path", PATHS)
async def test_a_model_that_begins_elsewhere_does_not_speak_for_a_function(path: str) -> None:
    begun = threading.Event()

    class Slow(Broken):
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            begun.set()
            done.wait(5.0)
            time.sleep(0.1)  # it has begun, and says nothing until the function's error is told
            return ScriptedModel(["fine"])._generate(*args, **kwargs)

        async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(self._generate, *args, **kwargs)

        def _stream(self, *args: Any, **kwargs: Any) -> Any:
            self._generate([])
            yield from ScriptedModel(["fine"])._stream(*args, **kwargs)

        async def _astream(self, *args: Any, **kwargs: Any) -> Any:
            await asyncio.to_thread(self._generate, [])
            async for chunk in ScriptedModel(["fine"])._astream(*args, **kwargs):
                yield chunk

    done = threading.Event()

    def ask_a_provider(_: Any) -> Any:
        begun.wait(5.0)
        try:
            raise KeyError(EVIL)
        finally:
            done.set()

    error = await raised(safe(RunnableParallel(a=Slow([]), b=RunnableLambda(ask_a_provider))), path)
    assert (type(error), holds(error)) == (ChainError, False)


@pytest.mark.parametrize("path", PATHS)
async def test_a_models_own_error_leaves_behind_what_a_function_raised(path: str) -> None:
    def ask(text: Any) -> Any:
        try:
            raise OwnError(EVIL)
        except OwnError:
            return Broken([]).invoke("hi")

    error = await raised(safe(RunnableLambda(ask)), path)
    assert (type(error), holds(error)) == (OwnError, False)
