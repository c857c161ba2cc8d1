"""Chains that fail behind an output rail, every path that calls one, and where its unjudged answer could be held."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
from langchain_core.exceptions import OutputParserException
from langchain_core.runnables import Runnable
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from pydantic import BaseModel, PrivateAttr

from guardrail_plugin.runnables import guard
from guardrail_plugin.testing import ScriptedGuardian, verdict
from guardrail_plugin.testing.models import ScriptedModel

EVIL = "EVIL steps, no JSON"


class Answer(BaseModel):
    text: str


class OwnError(Exception):
    """An error that an application raises."""


MODEL = ScriptedModel([EVIL])


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


def named(name: str, *, module: str, base: type[Exception] = Exception, **attributes: Any) -> Any:
    """Make an error class as a package that is not installed here has it."""
    return type(name, (base,), {"__module__": module, **attributes})


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


def shown(recorder: RunCollectorCallbackHandler) -> str:
    """Return all that the recorded runs hold."""

    def walk(runs: list[Any]) -> Iterator[str]:
        for run in runs:
            yield repr((run.name, run.error, run.outputs, run.events, run.extra))
            yield from walk(run.child_runs)

    return "\n".join(walk(recorder.traced_runs))


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
