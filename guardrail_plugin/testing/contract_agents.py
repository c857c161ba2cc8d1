"""What a guarded LangGraph agent must keep to; see ``contract`` for how to run it. Needs ``langgraph``.

The subject is a function ``build(model, tools, guardian, checkpointer)`` that returns a compiled graph over
``{"messages": [...]}``: ``create_agent`` with a middleware, or a graph made by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.tools import BaseTool

from guardrail_plugin.core.errors import GuardrailError, MissingDependencyError
from guardrail_plugin.core.verdict import Rail
from guardrail_plugin.guardian.protocol import GuardianProtocol
from guardrail_plugin.testing.contract import (
    FORBIDDEN,
    HARMFUL_TURN,
    HARMLESS_TURN,
    Contract,
    down_at,
    not_in,
    require,
    watchman,
)
from guardrail_plugin.testing.contract_tools import POISON, mail_tool
from guardrail_plugin.testing.exits import AGENT_EXITS
from guardrail_plugin.testing.models import ScriptedModel

BuildAgent: TypeAlias = Callable[[BaseChatModel, Sequence[BaseTool], GuardianProtocol, Any], Any]

_DONE = ("All is ", "done now.")


def calling(*recipients: str) -> list[str | AIMessageChunk]:
    """Return a model's turn that calls the mail tool once for each recipient, in parallel."""
    return [
        AIMessageChunk(
            content="",
            tool_call_chunks=[
                {
                    "type": "tool_call_chunk",
                    "name": "send_mail",
                    "args": f'{{"to": "{to}"}}',
                    "id": f"call-{index}",
                    "index": index,
                }
                for index, to in enumerate(recipients)
            ],
        )
    ]


def _saver() -> Any:
    try:
        from langgraph.checkpoint.memory import InMemorySaver
    except ImportError:
        raise MissingDependencyError("langgraph", extra="langchain") from None
    return InMemorySaver()


def _asking(text: str) -> dict[str, list[BaseMessage]]:
    return {"messages": [HumanMessage(text)]}


def _thread(name: str) -> Any:
    return {"configurable": {"thread_id": name}}


async def harmless_runs_pass_unchanged(build: BuildAgent) -> None:
    """The agent calls its tool and answers as the model said, sync and async."""
    for name in ("invoke", "ainvoke"):
        done: list[str] = []
        agent = build(ScriptedModel(calling("alice"), _DONE), [mail_tool(done)], watchman(), _saver())
        state = await _run(agent, name, "Write to alice", _thread("t"))
        require(done == ["alice"], f"{name}: the tool did not run")
        require(state["messages"][-1].text == "".join(_DONE), f"{name}: the answer was changed")


async def model_never_ran_when_input_blocked(build: BuildAgent) -> None:
    """A blocked user turn never reaches the model, and is answered."""
    for name in ("invoke", "ainvoke"):
        model = ScriptedModel(HARMLESS_TURN)
        agent = build(model, [], watchman(), _saver())
        state = await _run(agent, name, f"Tell me about {FORBIDDEN}", _thread("t"))
        require(model.calls == 0, f"{name}: the model ran on a blocked input")
        require(state["messages"][-1].type == "ai", f"{name}: a blocked input got no answer")


async def no_unchecked_token_in_any_stream(build: BuildAgent) -> None:
    """No stream mode and no event shows the forbidden text that the model says."""
    for exit_, run in AGENT_EXITS.items():
        agent = build(ScriptedModel(HARMFUL_TURN), [], watchman(), _saver())
        not_in(await run(agent, _asking("hello"), _thread("t")), f"by {exit_}")


async def harmless_answers_still_stream(build: BuildAgent) -> None:
    """Checked text arrives in ``stream_mode="messages"`` in more than one piece."""
    agent = build(ScriptedModel(HARMLESS_TURN), [], watchman(), _saver())
    texts = [
        message.text
        async for message, _ in agent.astream(_asking("hello"), _thread("m"), stream_mode="messages")
        if message.text and message.type in ("ai", "AIMessageChunk")
    ]
    require("".join(texts) == "".join(HARMLESS_TURN), "the streamed pieces are not the answer")
    require(len(texts) > 1, "the answer came in one piece")


async def state_is_clean_after_block(build: BuildAgent) -> None:
    """After a blocked answer neither the state nor any checkpoint holds it, and its place is taken by another."""
    for name in ("invoke", "ainvoke"):
        saver = _saver()
        agent = build(ScriptedModel(HARMFUL_TURN), [], watchman(), saver)
        state = await _run(agent, name, "hello", _thread("t"))
        not_in(state, f"in the state that {name} returns")
        answers = [message for message in state["messages"] if message.type == "ai"]
        require(len(answers) == 1, f"{name}: the block left {len(answers)} answers in place of one")
        require(bool(answers[0].text.strip()), f"{name}: the block left an empty answer")
        for snapshot in agent.get_state_history(_thread("t")):
            not_in(snapshot.values, f"in a checkpoint of {name}")
        not_in([item.pending_writes for item in saver.list(_thread("t"))], f"in pending writes of {name}")


async def tool_did_not_run(build: BuildAgent) -> None:
    """A tool call with harmful arguments is not made; its siblings are, and the agent goes on."""
    for name in ("invoke", "ainvoke"):
        done: list[str] = []
        model = ScriptedModel(calling(FORBIDDEN, "alice"), _DONE)
        state = await _run(build(model, [mail_tool(done)], watchman(), _saver()), name, "Write", _thread("t"))
        require(FORBIDDEN not in done, f"{name}: the tool ran on harmful arguments")
        require(bool(state["messages"][-1].text.strip()), f"{name}: the agent gave no answer")
        errors = [m for m in state["messages"] if m.type == "tool" and m.status == "error"]
        require(done == ["alice"] or not errors, f"{name}: a harmless sibling call was not made")
        not_in(state, f"in the state that {name} returns, as a blocked call's arguments")
    for exit_, run in AGENT_EXITS.items():
        agent = build(ScriptedModel(calling(FORBIDDEN, "alice"), _DONE), [mail_tool([])], watchman(), _saver())
        not_in(await run(agent, _asking("Write"), _thread("t")), f"by {exit_}, as a blocked call's arguments")


async def poisoned_output_never_reaches_the_model(build: BuildAgent) -> None:
    """What a tool read is judged before the model sees it, and stays out of state and streams."""
    for name in ("invoke", "ainvoke"):
        model = ScriptedModel(calling(POISON), _DONE)
        state = await _run(build(model, [mail_tool([])], watchman(), _saver()), name, "Write", _thread("t"))
        not_in(model.asked, f"to the model, under {name}")
        not_in(state, f"in the state that {name} returns")
    for exit_, run in AGENT_EXITS.items():
        agent = build(ScriptedModel(calling(POISON), _DONE), [mail_tool([])], watchman(), _saver())
        not_in(await run(agent, _asking("Write"), _thread("t")), f"by {exit_}")


async def an_old_block_does_not_block_later_turns(build: BuildAgent) -> None:
    """After a blocked turn the same thread goes on with a harmless one."""
    model = ScriptedModel(HARMLESS_TURN)
    agent = build(model, [], watchman(), _saver())
    await _run(agent, "ainvoke", f"Tell me about {FORBIDDEN}", _thread("t"))
    state = await _run(agent, "ainvoke", "How are you?", _thread("t"))
    require(state["messages"][-1].text == "".join(HARMLESS_TURN), "a later harmless turn was not answered")


async def a_blocked_turn_reaches_no_later_call(build: BuildAgent) -> None:
    """The model never reads a blocked user turn, in the history of a later turn neither."""
    for name in ("invoke", "ainvoke"):
        model = ScriptedModel(HARMLESS_TURN)
        agent = build(model, [], watchman(), _saver())
        await _run(agent, name, f"Tell me about {FORBIDDEN}", _thread("t"))
        state = await _run(agent, name, "How are you?", _thread("t"))
        not_in(model.asked, f"to the model, under {name}")
        not_in(state, f"in the state that {name} returns")


async def no_checkpoint_holds_a_blocked_text(build: BuildAgent) -> None:
    """Whatever is blocked, the checkpointer that ``build`` is given never holds it: in no checkpoint, in no write.

    LangGraph saves what a user says before any node runs, so this takes a checkpointer around the given one.
    """
    said: dict[str, tuple[ScriptedModel, str]] = {
        "a user turn": (ScriptedModel(HARMLESS_TURN), f"Tell me about {FORBIDDEN}"),
        "an answer": (ScriptedModel(HARMFUL_TURN), "hello"),
        "a tool's output": (ScriptedModel(calling(POISON), _DONE), "Write"),
        "a tool call's arguments": (ScriptedModel(calling(FORBIDDEN, "alice"), _DONE), "Write"),
    }
    for name in ("invoke", "ainvoke"):
        for what, (model, text) in said.items():
            saver = _saver()
            await _run(build(model, [mail_tool([])], watchman(), saver), name, text, _thread("t"))
            saved = list(saver.list(None))
            require(bool(saved), f"{name}: no checkpoint was saved")
            not_in([(item.checkpoint, item.pending_writes) for item in saved], f"to a store, as {what}, under {name}")


async def a_guardian_that_is_down_blocks(build: BuildAgent) -> None:
    """Without a verdict nothing goes on: no turn to the model, no call to a tool, no output to the model, no answer.

    The guardian is down on one rail at a time. An error of this library that reaches the caller counts as a block.
    """
    rails: tuple[Rail, ...] = ("input", "tool_call", "tool_output", "output")
    for exit_ in ("invoke", "ainvoke", *AGENT_EXITS):
        for down in rails:
            done: list[str] = []
            model = ScriptedModel(calling("alice"), ("Granted",))
            left = await _left_by(exit_, build(model, [mail_tool(done)], down_at(down), _saver()))
            if down == "input":
                require(model.calls == 0, f"{exit_}: the model ran without a verdict on the input")
            if down in ("input", "tool_call"):
                require(done == [], f"{exit_}: the tool ran without a verdict on the {down}")
            if down == "tool_output":
                require(
                    "sent to alice" not in repr(model.asked), f"{exit_}: the model read tool output without a verdict"
                )
                require("sent to alice" not in repr(left), f"{exit_}: tool output left without a verdict")
            if down == "output":
                require("Granted" not in repr(left), f"{exit_}: an answer left without a verdict")


async def _left_by(exit_: str, agent: Any) -> object:
    try:
        if exit_ in AGENT_EXITS:
            return await AGENT_EXITS[exit_](agent, _asking("Write to alice"), _thread("t"))
        return await _run(agent, exit_, "Write to alice", _thread("t"))
    except GuardrailError:
        return []


async def _run(agent: Any, name: str, text: str, config: Any) -> Any:
    return agent.invoke(_asking(text), config) if name == "invoke" else await agent.ainvoke(_asking(text), config)


AGENT_CONTRACT: Contract[BuildAgent] = {
    check.__name__: check
    for check in (
        harmless_runs_pass_unchanged,
        model_never_ran_when_input_blocked,
        no_unchecked_token_in_any_stream,
        harmless_answers_still_stream,
        state_is_clean_after_block,
        tool_did_not_run,
        poisoned_output_never_reaches_the_model,
        an_old_block_does_not_block_later_turns,
        a_blocked_turn_reaches_no_later_call,
        no_checkpoint_holds_a_blocked_text,
        a_guardian_that_is_down_blocks,
    )
}
"""Checks for guarded agents and graphs."""
