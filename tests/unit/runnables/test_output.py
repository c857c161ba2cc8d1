"""Which type a safeguard response takes, and what is refused when a wrapper is built."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any, Optional, Union

import pytest
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.runnables import Runnable, RunnableBranch, RunnableLambda, RunnableParallel, RunnablePassthrough

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.runnables import guard
from guardrail_plugin.runnables.output import OutputKind, output_kind
from guardrail_plugin.testing import ScriptedGuardian, allow_all, block_all

MODEL = FakeListChatModel(responses=["an answer"])


def to_text(value: object) -> str:
    return str(value)


async def ato_message(value: object) -> AIMessage:
    return AIMessage(str(value))


def to_texts(value: object) -> Iterator[str]:
    yield str(value)


async def ato_chunks(value: object) -> AsyncIterator[AIMessageChunk]:
    yield AIMessageChunk(content=str(value))


def to_missing(value: object) -> NotImported:  # type: ignore[name-defined]  # noqa: F821
    return value


KINDS: dict[str, tuple[Runnable[Any, Any], OutputKind | None]] = {
    "chat model": (MODEL, "message"),
    "bound chat model": (MODEL.bind(stop=["x"]), "message"),
    "chat model with retry": (MODEL.with_retry(), "message"),
    "chat model with fallbacks": (MODEL.with_fallbacks([MODEL]), "message"),
    "text model": (FakeListLLM(responses=["an answer"]), "text"),
    "last step counts": (MODEL | StrOutputParser(), "text"),
    "function, postponed annotation": (RunnableLambda(to_text), "text"),
    "async function": (RunnableLambda(ato_message), "message"),
    "generator": (RunnableLambda(to_texts), "text"),
    "async generator": (RunnableLambda(ato_chunks), "message"),
    "unannotated": (RunnableLambda(lambda value: value), None),
    "annotation that cannot be resolved": (RunnableLambda(to_missing), None),
    "passthrough": (MODEL | RunnablePassthrough(), None),
    "branch": (RunnableBranch((lambda _: True, MODEL), MODEL), None),
    "json": (MODEL | JsonOutputParser(), None),
    "dict": (RunnableParallel(answer=MODEL), None),
    "list": (MODEL.map(), None),
    "guarded": (guard(MODEL, guardian=allow_all()), "message"),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_output_kind_is_read_from_the_runnable(name: str) -> None:
    runnable, kind = KINDS[name]
    assert output_kind(runnable) == kind


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        (str, "text"),
        (AIMessage, "message"),
        (BaseMessage, "message"),
        (AIMessage | AIMessageChunk, "message"),
        (Union[str, None], "text"),  # noqa: UP007
        (Optional[AIMessage], "message"),  # noqa: UP045
        (Annotated[str, "note"], "text"),
    ],
)
def test_output_type_settles_what_the_runnable_does_not_tell(annotation: object, kind: OutputKind) -> None:
    assert output_kind(RunnablePassthrough(), annotation) == kind


@pytest.mark.parametrize("wrong", [dict, int, list[str], str | AIMessage, "str", Any])
def test_other_output_types_are_refused(wrong: object) -> None:
    with pytest.raises(ConfigError, match="output_type must be str or AIMessage"):
        guard(RunnablePassthrough(), guardian=allow_all(), output_type=wrong)


@pytest.mark.parametrize("name", [name for name, (_, kind) in KINDS.items() if kind is None])
def test_an_unknown_output_type_is_refused_at_construction(name: str) -> None:
    with pytest.raises(ConfigError, match="pass output_type=str or output_type=AIMessage, or on_block='raise'"):
        guard(KINDS[name][0], guardian=allow_all())


def test_an_unknown_output_type_is_no_matter_where_no_response_is_needed() -> None:
    several: list[dict[str, Any]] = [
        {"on_block": "raise"},
        {"on_block": lambda *given: given},
        {"policy": Policy(on_block="raise")},
    ]
    plain: RunnablePassthrough[str] = RunnablePassthrough()
    for settings in several:
        assert guard(plain, guardian=allow_all(), **settings).invoke("hi") == "hi"


def test_a_function_decides_the_output_and_sees_verdict_and_response() -> None:
    chain = guard(
        RunnableParallel(answer=MODEL),
        guardian=block_all(hazard="S7"),
        on_block=lambda verdict, response: {"answer": response, "hazard": verdict and verdict.hazard},
    )
    assert chain.invoke("hi") == {"answer": "I can't help with that.", "hazard": "S7"}


def test_the_wrappers_on_block_wins_over_the_policys() -> None:
    raising = Policy(on_block="raise")
    assert guard(RunnableLambda(to_text), guardian=block_all(), policy=raising, on_block="respond").invoke("x")
    answered: Runnable[Any, Any] = guard(
        RunnablePassthrough(), guardian=block_all(), policy=raising, on_block=lambda *_: 7
    )
    assert answered.invoke("x") == 7


class NoResponder:
    """Judges, and cannot respond."""

    check_many = acheck_many = ScriptedGuardian.check_many


async def aon_block(*_: object) -> str:
    return "never awaited"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guardian": ScriptedGuardian}, "guardian is the class ScriptedGuardian; pass an instance"),
        ({"guardian": NoResponder()}, "guardian=NoResponder has no respond, arespond"),
        ({"guardian": None}, "guardian=NoneType has no check_many"),
        ({"policy": {"on_block": "raise"}}, "policy must be a Policy, got dict"),
        ({"policy": "pol.toml"}, r"got str; write Policy.from_toml\(Path\('pol.toml'\)\)"),
        ({"policy": Path("pol.toml")}, r"Path; write Policy.from_toml\(Path\('pol.toml'\)\)"),
        ({"policy": Policy(hazards={"S99": {"action": "allow"}})}, r"'S99' \(did you mean 'S9'\?\)"),
        ({"on_block": lambda: "no arguments"}, "on_block must be a function of the verdict"),
        ({"on_block": "rase"}, r"on_block='rase' is none of respond, raise \(did you mean 'raise'\?\)"),
        ({"on_block": aon_block}, "on_block must be a plain function"),
        ({"on_uncheckable": "alow"}, r"on_uncheckable='alow' .* \(did you mean 'allow'\?\)"),
        ({"input_key": 7}, "input_key must be a key or a function, got int"),
        ({"context_turns": -1}, "context_turns must be 0 or more, got -1"),
        ({"context_turns": "6"}, "context_turns must be 0 or more, got '6'"),
        ({"runnable": "a chain"}, "cannot guard a str"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_settings_are_refused_at_construction(settings: dict[str, Any], message: str) -> None:
    arguments = {"guardian": allow_all(), **settings}
    with pytest.raises(ConfigError, match=message):
        guard(arguments.pop("runnable", MODEL), **arguments)
