"""What a wrapper around a chain must keep to, as checks that anyone can run on their own.

    from guardrail_plugin.testing.contract import RUNNABLE_CONTRACT, report

    def wrap(chain, guardian):
        return guard(chain, guardian=guardian, rails=("input", "output"))

    @pytest.mark.parametrize("name", RUNNABLE_CONTRACT)
    async def test_contract(name):
        await RUNNABLE_CONTRACT[name](wrap)

Each check is an async function of the wrapper (``Wrap``) that raises ``ContractViolation`` and says what went wrong.
``report`` runs a whole contract and returns what each check found. Tools and agents have contracts of their own, in
``contract_tools`` and ``contract_agents``. A wrapper that asks no guardian may leave that argument unused: the
forbidden text is an e-mail address, which other guards can be told to find. Such a wrapper has no guardian that could
be down, so ``a_guardian_that_is_down_blocks`` of each contract is not for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompt_values import ChatPromptValue
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import GuardianError
from guardrail_plugin.core.verdict import Rail
from guardrail_plugin.guardian.protocol import CheckOutcome, GuardianProtocol
from guardrail_plugin.testing.exits import EXITS
from guardrail_plugin.testing.guardians import ScriptedGuardian, verdict
from guardrail_plugin.testing.models import ScriptedModel
from guardrail_plugin.testing.paths import ASYNC_PATHS, SYNC_PATHS, CountingChain

FORBIDDEN = "mallory.7731@example.org"
"""What no caller may get to see, and no model or tool to act on. Models of these contracts say it in one token."""

SAFEGUARD = "I can't help with that."
HARMLESS_TURN = ("The first sentence is fine. ", "And so is ", "the second one.")
HARMFUL_TURN = ("The first sentence is fine. ", "Write to ", FORBIDDEN, " at once. ", "And more, ", "and more.")

S = TypeVar("S")
Wrap: TypeAlias = Callable[[Runnable[Any, Any], GuardianProtocol], Runnable[Any, Any]]
Contract: TypeAlias = Mapping[str, Callable[[S], Awaitable[None]]]


class ContractViolation(AssertionError):
    """A wrapper does not keep to the contract. The message says how."""


def require(kept: bool, broken: str) -> None:
    """Raise unless it is kept.

    Raises:
        ContractViolation: it is not.
    """
    if not kept:
        raise ContractViolation(broken)


def watchman() -> ScriptedGuardian:
    """Return a guardian that finds the forbidden text, and nothing else, harmful."""
    return ScriptedGuardian({FORBIDDEN: verdict(risk=0.99, hazard="S7")}, respond=SAFEGUARD, guardian_id="watchman")


def down_at(rail: Rail) -> ScriptedGuardian:
    """Return a guardian that has no verdict on one rail, and finds everything on the others harmless."""

    def answer(check: Check) -> CheckOutcome:
        return GuardianError("down") if check.rail == rail else verdict()

    return ScriptedGuardian(answer, guardian_id="down")


def not_in(left: object, where: str) -> None:
    """Raise if the forbidden text can be read in something.

    Raises:
        ContractViolation: it can.
    """
    require(FORBIDDEN not in repr(left), f"the forbidden text left {where}")


async def report(contract: Contract[S], subject: S) -> dict[str, str | None]:
    """Run every check of a contract. Returns, by name, what was broken; ``None``: nothing.

    Errors that are no violations count as broken too: a wrapper that raises does not work.
    """
    found: dict[str, str | None] = {}
    for name in contract:
        found[name] = await _outcome(contract[name], subject)
    return found


async def _outcome(check: Callable[[S], Awaitable[None]], subject: S) -> str | None:
    try:
        await check(subject)
    except ContractViolation as violation:
        return str(violation)
    except Exception as error:
        return f"raised {type(error).__name__}"
    return None


async def harmless_answers_pass_unchanged(wrap: Wrap) -> None:
    """What the chain says reaches the caller in full, with its usage, on every path."""
    bare = ScriptedModel(HARMLESS_TURN).invoke("hello")
    for path in (*SYNC_PATHS, *ASYNC_PATHS):
        wrapped = wrap(ScriptedModel(HARMLESS_TURN), watchman())
        reply = SYNC_PATHS[path](wrapped, "hello") if path in SYNC_PATHS else await ASYNC_PATHS[path](wrapped, "hello")
        require(reply.kind == "AIMessage", f"{path}: a message came back as {reply.kind}")
        require(reply.text == bare.text, f"{path}: a harmless answer was changed")
    message = wrap(ScriptedModel(HARMLESS_TURN), watchman()).invoke("hello")
    require(message.usage_metadata == bare.usage_metadata, "invoke: usage_metadata was lost")


async def chain_never_ran_when_blocked(wrap: Wrap) -> None:
    """A blocked input reaches the chain on no path and in no form, and something is answered.

    The forms are a text, messages, messages of text blocks, and a prompt value. The text every wrapper has to take;
    another form is left out where the wrapper raises on a harmless input of that form.
    """
    harmless, harmful = _forms("Tell alice about me"), _forms(f"Tell {FORBIDDEN} about me")
    for form in [form for form in harmful if form == "text" or _takes(wrap, harmless[form])]:
        value = harmful[form]
        for path in (*SYNC_PATHS, *ASYNC_PATHS):
            chain = CountingChain(AIMessage)
            wrapped = wrap(chain, watchman())
            reply = SYNC_PATHS[path](wrapped, value) if path in SYNC_PATHS else await ASYNC_PATHS[path](wrapped, value)
            require(chain.calls == 0, f"{path}: the chain ran on a blocked input, given as {form}")
            require(bool(reply.text.strip()), f"{path}: a blocked input, given as {form}, got no answer")


def _forms(text: str) -> dict[str, object]:
    return {
        "text": text,
        "messages": [HumanMessage(text)],
        "text blocks": [HumanMessage([{"type": "text", "text": text}])],
        "a prompt value": ChatPromptValue(messages=[HumanMessage(text)]),
    }


def _takes(wrap: Wrap, value: object) -> bool:
    try:
        wrap(CountingChain(AIMessage), watchman()).invoke(value)
    except Exception:
        return False
    return True


async def no_unchecked_character_leaves(wrap: Wrap) -> None:
    """No exit shows the forbidden text, and no chunk of a stream leaves before a check has covered it."""
    for exit_, run in EXITS.items():
        not_in(await run(wrap(ScriptedModel(HARMFUL_TURN), watchman()), "hello"), f"by {exit_}")
    for name in ("stream", "astream"):
        guardian = watchman()
        wrapped = wrap(ScriptedModel(HARMLESS_TURN), guardian)
        left = ""
        if name == "stream":
            for chunk in wrapped.stream("hello"):
                left = _covered(left + chunk.text, guardian, name)
        else:
            async for chunk in wrapped.astream("hello"):
                left = _covered(left + chunk.text, guardian, name)


def _covered(left: str, guardian: ScriptedGuardian, path: str) -> str:
    judged = [check.text for check in guardian.checks if check.rail == "output"]
    require(any(text.startswith(left) for text in judged), f"{path}: text left that no check had covered")
    return left


async def blocked_answer_is_replaced(wrap: Wrap) -> None:
    """A whole answer that is blocked gives way to another, of its type and under its id."""
    for name in ("invoke", "ainvoke"):
        wrapped = wrap(ScriptedModel(HARMFUL_TURN), watchman())
        message = wrapped.invoke("hello") if name == "invoke" else await wrapped.ainvoke("hello")
        not_in(message, f"by {name}")
        require(isinstance(message, AIMessage), f"{name}: the replacement is a {type(message).__name__}")
        require(bool(message.text.strip()), f"{name}: the replacement is empty")
        require(message.id == "scripted-0", f"{name}: the replacement has another id")


async def rest_of_stream_is_cancelled(wrap: Wrap) -> None:
    """A block in mid-stream closes the chain's stream: what it would still say is not paid for."""
    for name in ("stream", "astream"):
        model = ScriptedModel((*HARMFUL_TURN, *(f"and {n}. " for n in range(600))))
        wrapped = wrap(model, watchman())
        if name == "stream":
            list(wrapped.stream("hello"))
        else:
            [chunk async for chunk in wrapped.astream("hello")]
        require(model.ended == ["closed"], f"{name}: the chain's stream was read to its end after a block")


async def nothing_is_left_running(wrap: Wrap) -> None:
    """A caller who leaves in mid-stream, or is cancelled, leaves no task behind."""
    before = asyncio.all_tasks()
    stream = wrap(ScriptedModel(HARMLESS_TURN * 50), watchman()).astream("hello")
    await anext(stream)
    close = getattr(stream, "aclose", None)
    if close is not None:
        await close()
    started = asyncio.Event()

    async def wait(_: object) -> AIMessage:
        started.set()
        await asyncio.Event().wait()
        return AIMessage("never")

    call = asyncio.ensure_future(wrap(RunnableLambda(wait), watchman()).ainvoke("hello"))
    running = asyncio.ensure_future(started.wait())
    await asyncio.wait({call, running}, return_when=asyncio.FIRST_COMPLETED)
    running.cancel()
    require(started.is_set(), "a harmless call never reached the chain")
    call.cancel()
    await asyncio.gather(call, running, return_exceptions=True)
    for _ in range(10):
        await asyncio.sleep(0)  # generators that were dropped are closed by the loop
    require(asyncio.all_tasks() <= before, "tasks are left running")


async def requests_do_not_mix(wrap: Wrap) -> None:
    """One wrapper serves concurrent requests, each with its own config."""

    async def tell(text: str, config: RunnableConfig) -> AIMessage:
        await asyncio.sleep(0)
        return AIMessage(f"{text}:{config['metadata']['user']}")

    wrapped = wrap(RunnableLambda(tell), watchman())
    answers = await asyncio.gather(*(wrapped.ainvoke(f"q{i}", {"metadata": {"user": i}}) for i in range(50)))
    require([a.text for a in answers] == [f"q{i}:{i}" for i in range(50)], "concurrent requests were mixed up")


async def a_guardian_that_is_down_blocks(wrap: Wrap) -> None:
    """Without a verdict nothing goes in or out."""
    rails: tuple[Rail, ...] = ("input", "output")
    for down in rails:
        for path in (*SYNC_PATHS, *ASYNC_PATHS):
            chain = CountingChain(AIMessage)
            wrapped = wrap(chain, down_at(down))
            reply = SYNC_PATHS[path](wrapped, "hi") if path in SYNC_PATHS else await ASYNC_PATHS[path](wrapped, "hi")
            require("an answer" not in reply.text, f"{path}: an answer left without a verdict on the {down}")
            require(down == "output" or chain.calls == 0, f"{path}: the chain ran without a verdict")


RUNNABLE_CONTRACT: Contract[Wrap] = {
    check.__name__: check
    for check in (
        harmless_answers_pass_unchanged,
        chain_never_ran_when_blocked,
        no_unchecked_character_leaves,
        blocked_answer_is_replaced,
        rest_of_stream_is_cancelled,
        nothing_is_left_running,
        requests_do_not_mix,
        a_guardian_that_is_down_blocks,
    )
}
"""Checks for anything that wraps a Runnable with an input and an output rail."""
