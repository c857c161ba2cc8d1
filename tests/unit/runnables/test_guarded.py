"""``GuardedRunnable`` as a Runnable: batches, streams, composition, configuration."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import (
    ConfigurableField,
    Runnable,
    RunnableConfig,
    RunnableGenerator,
    RunnableLambda,
    RunnablePassthrough,
    RunnableSequence,
)

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import BlockedError, ConfigError, GuardianError, InputError
from guardrail_plugin.core.hazards import Hazard, Taxonomy
from guardrail_plugin.core.policy import HazardRule, Policy
from guardrail_plugin.core.verdict import Verdict
from guardrail_plugin.guardian.cache import CachedGuardian
from guardrail_plugin.guardian.protocol import CheckOutcome
from guardrail_plugin.runnables import GuardedRunnable, guard
from guardrail_plugin.testing import ScriptedGuardian, allow_all, block_all, verdict
from guardrail_plugin.testing.paths import CountingChain

BLOCK = "I can't help with that."
RULE: dict[str, CheckOutcome] = {"BOMB": verdict(risk=0.9, hazard="S9"), "DOWN": GuardianError("down")}


def shout(text: str) -> str:
    if "FAIL" in text:
        raise ValueError("the chain failed")
    return text.upper()


async def ashout(text: str) -> str:
    return shout(text)


SHOUT = RunnableLambda(shout, ashout)


def mixed() -> tuple[list[str], list[str]]:
    return ["hi", "BOMB", "you", "a BOMB"], ["HI", BLOCK, "YOU", BLOCK]


async def test_a_mixed_batch_is_one_guardian_call_and_keeps_its_order() -> None:
    inputs, outputs = mixed()
    for run in ("batch", "abatch"):
        guardian, chain = ScriptedGuardian(RULE), CountingChain()
        answer = getattr(guard(chain, guardian=guardian), run)(inputs)
        assert (await answer if run == "abatch" else answer) == ["an answer", BLOCK, "an answer", BLOCK]
        assert [len(batch) for batch in guardian.batches] == [4]
        assert sorted(map(str, chain.inputs)) == ["hi", "you"]
    assert guard(SHOUT, guardian=ScriptedGuardian(RULE)).batch(inputs) == outputs


async def test_errors_of_one_item_stay_its_own_with_return_exceptions() -> None:
    inputs: list[Any] = ["hi", "BOMB", "FAIL", "DOWN", 7, "you"]
    chain = guard(SHOUT, guardian=ScriptedGuardian(RULE), policy=Policy(on_block="raise", on_failure="raise"))
    for outputs in (
        chain.batch(inputs, return_exceptions=True),
        await chain.abatch(inputs, return_exceptions=True),
        [output for _, output in sorted(chain.batch_as_completed(inputs, return_exceptions=True), key=lambda o: o[0])],
    ):
        assert [type(output) for output in outputs] == [str, BlockedError, ValueError, GuardianError, InputError, str]
        assert (outputs[0], outputs[5]) == ("HI", "YOU")


async def test_without_return_exceptions_the_rails_error_comes_before_any_call() -> None:
    inner = CountingChain()
    chain = guard(inner, guardian=ScriptedGuardian(RULE), on_block="raise")
    with pytest.raises(BlockedError):
        chain.batch(["hi", "BOMB"])
    with pytest.raises(BlockedError):
        await chain.abatch(["hi", "BOMB"])
    assert inner.calls == 0


async def test_the_chains_own_errors_pass_on_every_path() -> None:
    chain = guard(SHOUT, guardian=allow_all())
    with pytest.raises(ValueError, match="the chain failed"):
        chain.invoke("FAIL")
    with pytest.raises(ValueError, match="the chain failed"):
        await chain.abatch(["hi", "FAIL"])
    with pytest.raises(ValueError, match="the chain failed"):
        list(chain.stream("FAIL"))
    with pytest.raises(ValueError, match="the chain failed"):
        [chunk async for chunk in chain.astream("FAIL")]


async def test_on_block_that_raises_is_one_items_error() -> None:
    def refuse(_: Verdict | None, __: str) -> str:
        raise LookupError("no such page")

    chain = guard(SHOUT, guardian=ScriptedGuardian(RULE), on_block=refuse)
    assert [type(o) for o in chain.batch(["BOMB", "hi"], return_exceptions=True)] == [LookupError, str]
    assert [type(o) for o in await chain.abatch(["BOMB", "hi"], return_exceptions=True)] == [LookupError, str]
    with pytest.raises(LookupError):
        chain.invoke("BOMB")


async def test_no_response_is_written_for_an_on_block_that_does_not_take_one() -> None:
    guardian = ScriptedGuardian(RULE)
    chain = guard(SHOUT, guardian=guardian, on_block=lambda verdict: f"{verdict.hazard if verdict else None}!")
    assert chain.invoke("BOMB") == await chain.ainvoke("BOMB") == "S9!"
    assert chain.invoke("DOWN") == "None!"
    assert guardian.responses == []


@pytest.mark.parametrize("name", ["bind_tools", "with_structured_output"])
def test_a_guarded_model_tells_to_bind_first(name: str) -> None:
    chain = guard(SHOUT, guardian=allow_all())
    assert not hasattr(chain, name)
    with pytest.raises(AttributeError, match=rf"bind first, guard\(model.{name}\("):
        getattr(chain, name)
    with pytest.raises(AttributeError, match="no attribute 'bind_tolls'"):
        chain.bind_tolls  # noqa: B018  # type: ignore[attr-defined]


def test_a_guardian_with_hazards_of_its_own_takes_rules_for_them() -> None:
    policy = Policy(hazards={"gossip": HazardRule(action="allow")})
    with pytest.raises(ConfigError, match="unknown hazard code 'gossip'"):
        guard(SHOUT, guardian=allow_all(), policy=policy)
    guardian = Gossips({})
    assert guard(SHOUT, guardian=guardian, policy=policy).invoke("hi") == "HI"
    assert guard(SHOUT, guardian=CachedGuardian(guardian), policy=policy).invoke("hi") == "HI"


class Gossips(ScriptedGuardian):
    """A guardian that names a hazard of its own."""

    taxonomy = Taxonomy.of([Hazard("gossip", "Gossip", "Talk about colleagues.")])


async def test_empty_batches() -> None:
    guardian = ScriptedGuardian(RULE)
    chain = guard(SHOUT, guardian=guardian)
    assert chain.batch([]) == await chain.abatch([]) == []
    assert guardian.batches == []


def test_each_item_keeps_its_own_config() -> None:
    def tell(text: str, config: RunnableConfig) -> str:
        return f"{text} {config['metadata']['user']} {sorted(config['tags'])}"

    chain = guard(RunnableLambda(tell), guardian=ScriptedGuardian(RULE))
    configs: list[RunnableConfig] = [{"metadata": {"user": user}, "tags": [user]} for user in "abc"]
    assert chain.batch(["x", "BOMB", "z"], configs) == ["x a ['a']", BLOCK, "z c ['c']"]


async def test_max_concurrency_reaches_the_chain() -> None:
    inside = most = 0

    async def work(text: str) -> str:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)
        inside -= 1
        return text

    chain = guard(RunnableLambda(work), guardian=allow_all())
    assert await chain.abatch(["x"] * 9, {"max_concurrency": 2}) == ["x"] * 9
    assert most == 2


def test_call_arguments_reach_the_chain() -> None:
    def tell(text: str, **kwargs: Any) -> str:
        return f"{text} {kwargs}"

    chain = guard(RunnableLambda(tell), guardian=allow_all())
    told = "x {'stop': ['y']}"
    assert chain.invoke("x", stop=["y"]) == chain.bind(stop=["y"]).invoke("x") == told
    assert chain.batch(["x"], stop=["y"]) == list(chain.stream("x", stop=["y"])) == [told]


def test_output_streams_while_the_chain_still_runs() -> None:
    steps: list[str] = []

    def talk(_: Iterator[str]) -> Iterator[str]:
        for word in ("a", "b"):
            steps.append(f"made {word}")
            yield word
        steps.append("done")

    words: Runnable[Any, str] = RunnableGenerator(talk)
    chain: Runnable[Any, str] = RunnablePassthrough() | guard(words, guardian=allow_all(), output_type=str)
    for chunk in chain.stream("hi"):
        steps.append(f"got {chunk}")  # noqa: PERF401 - the order of the two is what is tested
    assert steps == ["made a", "got a", "made b", "got b", "done"]


class Talking(CountingChain):
    """Streams letters and tells when its streams end."""

    def __init__(self) -> None:
        super().__init__(str)
        self.closed: list[str] = []

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        try:
            yield from "abc"
        finally:
            self.closed.append("sync")

    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        try:
            for letter in "abc":
                yield letter
        finally:
            self.closed.append("async")


async def test_a_reader_that_leaves_early_stops_the_chain_at_once() -> None:
    inner = Talking()
    chain = guard(inner, guardian=allow_all())
    stream = chain.stream("hi")
    assert next(stream) == "a"
    stream.close()  # type: ignore[attr-defined]
    assert inner.closed == ["sync"]
    astream = chain.astream("hi")
    assert await anext(astream) == "a"
    await astream.aclose()  # type: ignore[attr-defined]
    assert inner.closed == ["sync", "async"]


async def test_transform_judges_the_whole_and_passes_on_what_it_judged() -> None:
    async def aiter(*parts: str) -> AsyncIterator[str]:
        for part in parts:
            yield part

    guardian, inner = ScriptedGuardian(RULE), CountingChain()
    chain = guard(inner, guardian=guardian)
    assert list(chain.transform(iter(["a BO", "MB"]))) == [BLOCK]
    assert [chunk async for chunk in chain.atransform(aiter("a BO", "MB"))] == [BLOCK]
    assert list(chain.transform(iter(["he", "llo"]))) == ["an ", "ans", "wer"]
    assert [chunk async for chunk in chain.atransform(aiter("he", "llo"))] == ["an ", "ans", "wer"]
    assert inner.inputs == ["hello", "hello"]
    assert list(chain.transform(iter([]))) == [chunk async for chunk in chain.atransform(aiter())] == []
    assert len(guardian.checks) == 4


def test_chunks_that_do_not_add_up_cannot_smuggle_text_past_the_rail() -> None:
    # LangChain keeps the last of such chunks; a chain that reads chunk by chunk must be given that one only.
    seen: list[object] = []

    def read(chunks: Iterator[object]) -> Iterator[str]:
        for chunk in chunks:
            seen.append(chunk)
            yield "an answer"

    inner: Runnable[Any, str] = RunnableGenerator(read)
    chain = guard(inner, guardian=ScriptedGuardian(RULE), output_type=str)
    assert "".join(chain.transform(iter([{"question": "BOMB"}, {"question": "hi"}]))) == "an answer"
    assert seen == [{"question": "hi"}]


async def test_a_blocked_stream_is_one_chunk_that_adds() -> None:
    model = FakeListChatModel(responses=["an answer"])
    chain = guard(model, guardian=ScriptedGuardian(RULE))
    [chunk] = list(chain.stream("BOMB"))
    assert isinstance(chunk, AIMessageChunk)
    whole: BaseMessage = AIMessageChunk(content="") + chunk
    assert whole.text == BLOCK
    assert whole.response_metadata["guardrail"]["hazard"] == "S9"
    prompt = ChatPromptTemplate.from_messages([("system", "Be kind."), ("human", "{question}")])
    pipe = prompt | chain | StrOutputParser()
    assert list(pipe.stream({"question": "BOMB"})) == [BLOCK]
    assert [text async for text in pipe.astream({"question": "BOMB"})] == [BLOCK]
    assert list(pipe.stream({"question": "hi"})) == list("an answer")
    assert [text async for text in pipe.astream({"question": "hi"})] == list("an answer")


def test_a_blocked_message_carries_the_verdict() -> None:
    policy = Policy(version="2026-11")
    message = guard(FakeListChatModel(responses=["x"]), guardian=ScriptedGuardian(RULE), policy=policy).invoke("BOMB")
    assert type(message) is AIMessage
    fields = message.response_metadata["guardrail"]
    expected = {"rail": "input", "action": "block", "hazard": "S9", "risk": 0.9, "harmful": True, "error": None}
    assert expected.items() <= fields.items()
    assert fields["policy_version"] == "2026-11"


def test_pipes_make_new_objects_and_leave_the_guard_as_it_was() -> None:
    chain = guard(SHOUT, guardian=ScriptedGuardian(RULE))
    first, second = chain | (lambda text: f"{text}1"), chain | (lambda text: f"{text}2")
    assert isinstance(first, RunnableSequence)
    assert isinstance(second, RunnableSequence)
    assert (first.invoke("a"), second.invoke("a"), chain.invoke("a")) == ("A1", "A2", "A")
    assert first.steps[0] is second.steps[0] is chain
    with pytest.raises(Exception, match="frozen"):
        setattr(chain, "policy", Policy(on_failure="allow"))  # noqa: B010


async def test_one_guard_serves_concurrent_requests_without_mixing_their_configs() -> None:
    async def tell(text: str, config: RunnableConfig) -> str:
        await asyncio.sleep(0)
        return f"{text}:{config['metadata']['user']}"

    class Yielding(ScriptedGuardian):
        async def acheck_many(self, checks: Sequence[Check], *, timeout_s: float | None = None) -> list[CheckOutcome]:
            await asyncio.sleep(0)
            return self.check_many(checks, timeout_s=timeout_s)

    chain = guard(RunnableLambda(tell), guardian=Yielding(RULE), output_type=str)
    answers = await asyncio.gather(*(chain.ainvoke(f"q{i}", {"metadata": {"user": i}}) for i in range(50)))
    assert answers == [f"q{i}:{i}" for i in range(50)]


def test_settings_can_be_made_configurable() -> None:
    chain = guard(SHOUT, guardian=ScriptedGuardian(RULE)).configurable_fields(policy=ConfigurableField(id="policy"))
    lax = chain.with_config(configurable={"policy": Policy(threshold=0.95)})
    assert (chain.invoke("BOMB"), lax.invoke("BOMB")) == (BLOCK, "BOMB")


def test_a_copy_goes_by_its_own_settings() -> None:
    strict = guard(CountingChain(), guardian=ScriptedGuardian(RULE), name="shop")
    lax = strict.model_copy(update={"policy": Policy(threshold=0.95)})
    assert (strict.invoke("BOMB"), lax.invoke("BOMB")) == (BLOCK, "an answer")
    assert (lax.name, lax.rails, lax.policy.threshold) == ("shop", ("input",), 0.95)
    other = strict.model_copy(update={"guardian": allow_all(), "rails": ("input", "output")})
    assert other.invoke("BOMB") == "an answer"
    with pytest.raises(BlockedError):
        strict.model_copy(update={"on_block": "raise"}).invoke("BOMB")
    assert strict.model_copy(deep=True).invoke("BOMB") == BLOCK
    assert strict.model_copy(update={"on_block": lambda verdict: "own"}).invoke("BOMB") == "own"
    for wrong in ({"polcy": Policy()}, {"rails": ("inputs",)}, {"guardian": ScriptedGuardian}):
        with pytest.raises(ConfigError):
            strict.model_copy(update=wrong)


def test_assign_and_map() -> None:
    chain: Runnable[Any, Any] = guard(SHOUT, guardian=ScriptedGuardian(RULE))
    assert RunnablePassthrough.assign(answer=chain).invoke({"question": "BOMB"})["answer"] == BLOCK
    assert chain.map().invoke(["a", "BOMB"]) == ["A", BLOCK]


def test_retry_repeats_the_chain_and_not_a_block() -> None:
    calls: list[str] = []

    def flaky(text: str) -> str:
        calls.append(text)
        if len(calls) < 3:
            raise ConnectionError
        return text

    chain = guard(RunnableLambda(flaky), guardian=ScriptedGuardian(RULE)).with_retry(wait_exponential_jitter=False)
    assert chain.invoke("BOMB") == BLOCK
    assert chain.invoke("hi") == "hi"
    assert calls == ["hi"] * 3


def test_fallbacks_inside_the_guard_are_guarded() -> None:
    def fail(_: str) -> str:
        raise ConnectionError

    chain = guard(RunnableLambda(fail).with_fallbacks([SHOUT]), guardian=ScriptedGuardian(RULE))
    assert (chain.invoke("hi"), chain.invoke("BOMB")) == ("HI", BLOCK)


def test_schemas_names_and_graph_are_the_wrapped_runnables() -> None:
    prompt = ChatPromptTemplate.from_messages([("human", "{question}")])
    bare = prompt | FakeListChatModel(responses=["x"]) | StrOutputParser()
    chain = guard(bare, guardian=allow_all())
    assert chain.get_input_jsonschema() == bare.get_input_jsonschema()
    assert chain.get_output_jsonschema() == bare.get_output_jsonschema()
    assert (chain.InputType, chain.OutputType) == (bare.InputType, bare.OutputType)
    assert chain.config_specs == bare.config_specs
    assert len(chain.get_graph().nodes) == len(bare.get_graph().nodes)
    assert chain.get_prompts() == bare.get_prompts()
    assert chain.get_name() == "guard<RunnableSequence>"
    assert guard(bare, guardian=allow_all(), name="safe chain").get_name() == "safe chain"


def test_repr_and_serialisation_hold_names_only() -> None:
    prompt = ChatPromptTemplate.from_messages([("system", "a secret instruction"), ("human", "{question}")])
    chain = guard(
        prompt | FakeListChatModel(responses=["a secret answer"]),
        guardian=block_all(),
        on_block=lambda *_: AIMessage("a secret page"),
        policy=Policy(version="v3"),
    )
    chain.invoke({"question": "a secret question"})
    expected = "GuardedRunnable(runnable='RunnableSequence', guardian='block_all', policy='v3')"
    assert repr(chain) == expected
    for text in (repr(chain), str(chain), dumps(chain), dumps(chain | StrOutputParser()), chain.model_dump_json()):
        assert "secret" not in text
    assert isinstance(chain, GuardedRunnable)


@pytest.mark.parametrize("rails", [("input",), ("input", "output")])
def test_a_block_names_the_hazard_it_is_for(rails: Any) -> None:
    """The worst part of the text is of a hazard that the policy allows."""
    asked: list[str | None] = []

    class Writer(ScriptedGuardian):
        def respond(self, check: Check, verdict: Verdict | None, *, timeout_s: float | None = None) -> str:
            asked.append(verdict and verdict.hazard)
            return "No."

    both = replace(verdict(risk=0.9, hazard="S12"), members=(verdict(risk=0.8, hazard="S11"),))
    policy = Policy(hazards={"S12": {"action": "allow"}})  # type: ignore[dict-item]
    model = FakeListChatModel(responses=["ok"])
    told = guard(model, guardian=Writer({"story": both}), policy=policy, rails=rails).invoke("story")
    assert (told.content, asked) == ("No.", ["S11"])
    assert told.response_metadata["guardrail"]["hazard"] == "S11"
