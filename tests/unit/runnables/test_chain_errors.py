"""What a chain behind an output rail raises: never the unjudged answer, on no path and in no trace."""

from __future__ import annotations

import asyncio
import builtins
import json
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import requests
from langchain_core.exceptions import OutputParserException
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser, StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import (
    Runnable,
    RunnableGenerator,
    RunnableLambda,
    RunnablePassthrough,
    RunnablePick,
)
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from pydantic import BaseModel, PrivateAttr

from guardrail_plugin import ChainError, InputError
from guardrail_plugin.runnables import guard, guard_model
from guardrail_plugin.testing import ScriptedGuardian, allow_all, verdict
from guardrail_plugin.testing.models import ScriptedModel

EVIL = "EVIL steps, no JSON"


def shown(recorder: RunCollectorCallbackHandler) -> str:
    """Return all that the recorded runs hold."""

    def walk(runs: list[Any]) -> Iterator[str]:
        for run in runs:
            yield repr((run.name, run.error, run.outputs, run.events, run.extra))
            yield from walk(run.child_runs)

    return "\n".join(walk(recorder.traced_runs))


class Answer(BaseModel):
    text: str


class OwnError(Exception):
    """An error that an application raises."""


def status(code: int, text: str = "") -> openai.APIStatusError:
    kind = {400: openai.BadRequestError, 429: openai.RateLimitError, 500: openai.InternalServerError}[code]
    request = httpx2.Request("POST", "http://localhost/v1")
    return kind(f"status {code} {text}", response=httpx2.Response(code, request=request), body=None)


def failing(error: Callable[[str], BaseException]) -> Callable[[Any], Any]:
    def run(said: Any) -> Any:
        raise error(said if isinstance(said, str) else said.text)

    return run


def while_parsing(error: Callable[[], Exception], *, cause: bool = False) -> Callable[[Any], Any]:
    """Raise one while a parser's error is handled, as those do that ask the model again.

    A new one for each input of a batch: threads that share one would give it back the cause that was cut off.
    """

    def run(said: Any) -> Any:
        try:
            raise OutputParserException(said.text, llm_output=said.text)
        except OutputParserException as parsing:
            if cause:
                raise error() from parsing
            raise error()  # noqa: B904  that is the case

    return run


def safe(chain: Any, **settings: Any) -> Runnable[Any, Any]:
    judge = ScriptedGuardian(lambda check: verdict(risk=0.9, hazard="S1") if "EVIL" in check.text else verdict())
    settings = {"rails": ("input", "output"), "output_text": json.dumps, "on_block": "raise", **settings}
    return guard(chain, guardian=judge, **settings)


def holds(error: BaseException | None) -> bool:
    """Tell whether the text is anywhere in an error, or in what it was raised from."""
    if error is None:
        return False
    shown = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
    return EVIL in shown or holds(error.__cause__) or holds(error.__context__)


async def _stream(chain: Any, config: Any) -> None:
    async for _ in chain.astream("hi", config):
        pass


async def _events(chain: Any, config: Any) -> None:
    async for event in chain.astream_events("hi", config, version="v2"):
        assert EVIL not in repr(event)


PATHS: dict[str, Callable[[Any, Any], Any]] = {
    "invoke": lambda chain, config: chain.invoke("hi", config),
    "batch": lambda chain, config: chain.batch(["hi", "you"], config),
    "batch, one": lambda chain, config: chain.batch(["hi"], config),
    "stream": lambda chain, config: list(chain.stream("hi", config)),
    "ainvoke": lambda chain, config: chain.ainvoke("hi", config),
    "abatch": lambda chain, config: chain.abatch(["hi", "you"], config),
    "astream": _stream,
    "astream_events": _events,
}


async def raised(chain: Any, path: str, config: Any = None) -> Exception:
    try:
        result = PATHS[path](chain, config)
        if asyncio.iscoroutine(result):
            await result
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def reading(chunks: Iterator[Any]) -> Iterator[str]:
    for chunk in chunks:
        yield Path(chunk.text).read_text()


async def areading(chunks: AsyncIterator[Any]) -> AsyncIterator[str]:
    async for chunk in chunks:
        for text in reading(iter([chunk])):
            yield text


class Status(Exception):
    """An application's error with a status, as FastAPI's."""

    status_code = 502


def noted(text: str) -> BaseException:
    error = OwnError()
    error.__notes__ = [text]
    return error


def unheard(_: Any) -> Any:
    raise OwnError(MODEL.invoke("hi", config={"callbacks": []}).text)


def elsewhere(_: Any) -> Any:
    with ThreadPoolExecutor() as threads:
        raise OwnError(threads.submit(MODEL.invoke, "hi").result().text)


def named(name: str, *, module: str, base: type[Exception] = Exception, **attributes: Any) -> Any:
    """Make an error class as a package that is not installed here has it."""
    return type(name, (base,), {"__module__": module, **attributes})


MODEL = ScriptedModel([EVIL])
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


SPOKEN: dict[str, Exception] = {
    "429": status(429),
    "500": status(500),
    "time": TimeoutError("late"),
    "connection": ConnectionError("lost"),
    "HTTP": httpx2.ConnectError("lost"),
    "OpenAI's connection": openai.APIConnectionError(request=httpx2.Request("POST", "http://localhost")),
    "own": InputError("one of the library's own"),
}


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


TWO = ChatPromptTemplate.from_messages([("human", "{a} {b}")])


def _client_error() -> Any:
    return named("HTTPClientError", module="botocore.exceptions")


class Broken(ScriptedModel):
    """Fails instead of answering."""

    _error: Callable[[str], Any] = PrivateAttr(default=OwnError)

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        raise self._error(EVIL if self._error is not OwnError else "before a word")

    async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
        self._generate()

    def _stream(self, *args: Any, **kwargs: Any) -> Any:
        yield self._generate()

    async def _astream(self, *args: Any, **kwargs: Any) -> Any:
        yield self._generate()


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


def test_ctrl_c_leaves_a_group_whose_other_errors_quote() -> None:
    kind: Any = getattr(builtins, "BaseExceptionGroup", None)
    if kind is None:
        pytest.skip("no groups before Python 3.11")
    for stop in (KeyboardInterrupt(), asyncio.CancelledError()):
        inner = kind(EVIL, [OwnError(EVIL), stop])
        group = kind(EVIL, [OwnError(EVIL), inner])
        with pytest.raises(type(stop)) as caught:
            safe(MODEL | failing(lambda _, group=group: group)).invoke("hi")
        assert not holds(caught.value)


def test_ctrl_c_passes_after_a_word() -> None:
    for error in (KeyboardInterrupt(), asyncio.CancelledError()):
        with pytest.raises(type(error)):
            safe(MODEL | failing(lambda _, error=error: error)).invoke("hi")


@pytest.mark.parametrize("path", PATHS)
async def test_control_flow_without_text_passes_after_a_word(path: str) -> None:
    errors, types = pytest.importorskip("langgraph.errors"), pytest.importorskip("langgraph.types")
    for error in (
        errors.GraphInterrupt(()),
        errors.GraphInterrupt([types.Interrupt(value=[True, {1: 2.5}, None], id="of the graph")]),
        errors.ParentCommand(None),
        errors.GraphDrained("shutdown"),
    ):
        assert type(await raised(safe(MODEL | failing(lambda _, error=error: error)), path)) is type(error)


@pytest.mark.parametrize("path", PATHS)
async def test_control_flow_with_text_becomes_a_chain_error_that_says_what_to_do(path: str) -> None:
    errors, types = pytest.importorskip("langgraph.errors"), pytest.importorskip("langgraph.types")
    said = OwnError(EVIL)
    for error in (
        errors.GraphInterrupt([types.Interrupt(value={"draft": EVIL})]),
        errors.GraphInterrupt([types.Interrupt(value={EVIL: True})]),
        errors.GraphInterrupt([types.Interrupt(value=said)]),
        errors.GraphInterrupt([types.Interrupt(value=True, response_schema={"enum": [EVIL]})]),
        errors.NodeInterrupt(EVIL),
        errors.ParentCommand(types.Command(graph=types.Command.PARENT, update={"messages": [EVIL]})),
    ):
        for chain in (MODEL | failing(lambda _, error=error: error), failing(lambda _, error=error: error)):
            told = await raised(safe(RunnableLambda(str) | chain), path)
            assert isinstance(told, ChainError)
            assert told.kind == type(error).__name__
            assert not holds(told)
            assert "guardrail_node or GuardrailMiddleware inside it" in str(told)


def test_a_guarded_graph_in_a_graph_hands_no_answer_past_the_rail() -> None:
    graphs, types = pytest.importorskip("langgraph.graph"), pytest.importorskip("langgraph.types")
    memory = pytest.importorskip("langgraph.checkpoint.memory")

    def commands(state: Any) -> Any:
        said = MODEL.invoke(state["messages"])
        return types.Command(graph=types.Command.PARENT, goto="other", update={"messages": [said]})

    def interrupts(state: Any) -> Any:
        return types.interrupt({"draft": MODEL.invoke(state["messages"]).text})

    for node in (commands, interrupts):
        inner = graphs.StateGraph(graphs.MessagesState)
        inner.add_node("node", node)
        inner.add_edge(graphs.START, "node")
        outer = graphs.StateGraph(graphs.MessagesState)
        outer.add_node("guarded", safe(inner.compile(), output_text=lambda state: state["messages"][-1].text))
        outer.add_node("other", lambda state: {})
        outer.add_edge(graphs.START, "guarded")
        graph, config = outer.compile(checkpointer=memory.InMemorySaver()), {"configurable": {"thread_id": "1"}}
        with pytest.raises(ChainError):
            graph.invoke({"messages": [("user", "hi")]}, config)
        assert EVIL not in repr(graph.get_state(config))


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
async def test_a_graph_behind_the_rail(path: str) -> None:
    graphs = pytest.importorskip("langgraph.graph")
    errors = pytest.importorskip("langgraph.errors")

    def answers(state: Any) -> Any:
        return {"messages": [MODEL.invoke("hi")]}

    def fails(state: Any) -> Any:
        raise OwnError(state["messages"][-1].text)

    for node, kind in ((fails, ChainError), (answers, errors.GraphRecursionError)):
        graph = graphs.StateGraph(graphs.MessagesState)
        graph.add_node("model", answers)
        graph.add_node("next", node)
        graph.add_edge(graphs.START, "model")
        graph.add_edge("model", "next")
        graph.add_edge("next", "model")
        chain = RunnableLambda(lambda text: {"messages": [("user", text)]}) | graph.compile()
        recorder = RunCollectorCallbackHandler()
        rail = safe(chain, output_text=lambda state: state["messages"][-1].text)
        error = await raised(rail, path, {"callbacks": [recorder], "recursion_limit": 4})
        assert type(error) is kind, error
        assert not holds(error)
        assert EVIL not in shown(recorder)
